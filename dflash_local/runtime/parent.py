"""The parent's constructor, run so that it takes nothing from the process.

With ``verbose=False`` llama_cpp points the descriptors 1 and 2 of the whole process elsewhere while
it loads a model: what other threads print meanwhile is lost, and after two loads at once it stays
lost. Our log callback makes that needless. The parent's own functions are run here with another
thing behind that one name; the modules of llama_cpp stay as they are.
"""

from __future__ import annotations

import contextlib
import functools
import os
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import llama_cpp

from dflash_local._api import _core, internals
from dflash_local.errors import ModelError
from dflash_local.llama_log import captured_log

from .placement import set_devices

# What the parent says when libllama gave it nothing, and no reason.
_UNEXPLAINED = ("Failed to load model", "Failed to create llama_context")


def construct(
    llm: llama_cpp.Llama,
    model_path: str,
    devices: Sequence[int],
    /,
    *,
    verbose: bool,
    **kwargs: Any,
) -> None:
    """``llama_cpp.Llama.__init__``, without redirecting descriptors.

    Args:
        devices: those that the model is spread over; (): libllama chooses.

    Raises:
        ModelError: libllama could not load the model or make its context; says libllama's reason.
            Or its chat template is none.
    """
    model = functools.partial(_Model, devices)
    names = types.SimpleNamespace(**{**vars(internals), "LlamaModel": model})
    init = _with_names(
        llama_cpp.Llama.__init__, internals=names, suppress_stdout_stderr=_leave_alone
    )
    with contextlib.ExitStack() as stack:
        log = [] if verbose else stack.enter_context(captured_log())
        try:
            with template_errors(model_path):
                init(llm, model_path, verbose=verbose, **kwargs)
        except ValueError as error:
            if not str(error).startswith(_UNEXPLAINED):
                raise
            said = "".join(log).strip() or "libllama does not say why"
            raise ModelError(f"{model_path}: {error}: {said}") from error


@contextlib.contextmanager
def template_errors(model_path: str | os.PathLike[str]) -> Iterator[None]:
    """What the parent's constructor raises where a model's chat template is none, as ModelError."""
    from jinja2 import TemplateError

    try:
        yield
    except TemplateError as error:
        path = os.fspath(model_path)
        raise ModelError(f"{path}: its chat template cannot be used: {error}") from error


class _Model(internals.LlamaModel):  # type: ignore[misc]
    def __init__(self, devices: Sequence[int], **options: Any) -> None:
        params = options["params"]
        self._devices = set_devices(params, devices) if devices else None
        # Only the end of the interpreter ends a load.
        kind = type(params.progress_callback)
        params.progress_callback = kind(_core.load_progress_callback())
        parents = internals.LlamaModel.__init__
        _with_names(parents, suppress_stdout_stderr=_leave_alone)(self, **options)


def _leave_alone(*, disable: bool) -> contextlib.AbstractContextManager[None]:
    del disable
    return contextlib.nullcontext()


def _with_names(function: Callable[..., None], **names: Any) -> Callable[..., None]:
    """The same function, with other things behind some of the global names that it uses."""
    assert isinstance(function, types.FunctionType)
    copy = types.FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy

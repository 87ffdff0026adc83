"""What the verifier makes of a text, read by the same C++ code that a session injects with."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import llama_cpp
import numpy as np
import numpy.typing as npt

from dflash_local._api import _core
from dflash_local.errors import BackendError, ModelError
from dflash_local.files.gguf_header import GGUFHeader
from dflash_local.files.taps import TAPS, Tap, why_none
from dflash_local.llama_log import captured_log
from dflash_local.runtime import observing
from dflash_local.runtime.drafter import address

_MAX_ROWS = 512  # rows of logits at once: 100 MB with a vocabulary of 50,000


@dataclass(frozen=True)
class Reading:
    """A text as the verifier sees it.

    Attributes:
        features: [n, n_features] F32, of each token, as a session injects them.
        ids: [n, k] the most likely tokens to follow each token, best first.
        log_probs: [n, k].
    """

    features: npt.NDArray[np.float32]
    ids: npt.NDArray[np.int32]
    log_probs: npt.NDArray[np.float32]


class Capturer:
    """A verifier that reads texts.

    Args:
        verifier: its GGUF.
        target_layers: layers whose *inputs* are the features, as GGUF has them.
        n_ctx: tokens of the longest text.

    Raises:
        ModelError: there is no tap for its architecture.
        BackendError: libllama cannot load it.
    """

    def __init__(
        self,
        verifier: Path,
        target_layers: Sequence[int],
        *,
        n_ctx: int,
        n_threads: int,
        n_gpu_layers: int = 0,
    ) -> None:
        tap = checked_tap(verifier)
        watch = observing.watch_for(tap)
        with captured_log(), contextlib.ExitStack() as stack:
            model = load_model(verifier, n_gpu_layers)
            stack.callback(llama_cpp.llama_model_free, model)
            params = context_params(n_threads)
            params.n_ctx = n_ctx
            params.n_batch = params.n_ubatch = min(_MAX_ROWS, n_ctx)
            observing.observe(params, watch)
            context = llama_cpp.llama_init_from_model(model, params)
            if context is None:
                raise BackendError(f"{verifier}: libllama could not make a context")
            stack.callback(llama_cpp.llama_free, context)
            verifier_ = _core.Verifier(
                address(context),
                max_rows=params.n_batch,
                feature_layers=list(target_layers),
                watch=watch,
                node=tap.node or "",
            )
            self._stack = stack.pop_all()
        self.n_features = verifier_.n_features  # floats in a row of features
        self._verifier: _core.Verifier | None = verifier_
        self._lock = threading.Lock()

    def read(self, tokens: Sequence[int], top_k: int) -> Reading:
        """The features of a text, and the ``top_k`` tokens to follow each of its tokens.

        Raises:
            ContextError: it is longer than ``n_ctx``.
            BackendError: the verifier was freed.
        """
        # libllama tells of buffers that grow.
        with self._lock, captured_log():
            if self._verifier is None:
                raise BackendError("the verifier was closed")
            return Reading(*_core.read(self._verifier, np.asarray(tokens, np.int32), top_k))

    def close(self) -> None:
        """Frees the model; waits for a text that is being read."""
        with self._lock, captured_log():
            self._verifier = None
            self._stack.close()

    def __enter__(self) -> Capturer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def checked_tap(verifier: Path) -> Tap:
    """How libllama gives a verifier's features.

    Raises:
        ModelError: it does not.
    """
    architecture = str(GGUFHeader(verifier).get("general.architecture"))
    if architecture not in TAPS:
        raise ModelError(f"{verifier}: {why_none(architecture)}")
    return TAPS[architecture]


def context_params(n_threads: int) -> llama_cpp.llama_context_params:
    """What ``llama_cpp.Llama`` makes its contexts with: a drafter learns from the verifier as it
    will run."""
    params = llama_cpp.llama_context_default_params()
    params.n_threads = params.n_threads_batch = n_threads
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return params


def load_model(path: Path, n_gpu_layers: int) -> llama_cpp.llama_model_p:
    """A ``llama_model``; the caller frees it.

    Raises:
        BackendError: libllama cannot load it; its own words are quoted.
    """
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = n_gpu_layers
    with captured_log() as log:
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
    if model is None:
        raise BackendError(f"{path}: libllama could not load it: {''.join(log).strip()}")
    return model

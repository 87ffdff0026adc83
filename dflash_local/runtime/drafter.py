"""A drafter loaded by libllama, ready to draft for a verifier's context."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from typing import Any

import llama_cpp

from dflash_local._api import _core
from dflash_local.errors import AllocationError, BackendError, ModelError
from dflash_local.files.drafter_file import DrafterInfo
from dflash_local.llama_log import captured_log

from .placement import Placement

__all__ = ["LoadedDrafter"]

# Rows that are taken in at once. libllama reserves logits of so many, whatever is asked of it.
_N_UBATCH = 64

# What libllama and its backends say of an allocation that failed.
_NO_MEMORY = re.compile(r"alloc|out of (device |host )?memory", re.IGNORECASE)


class LoadedDrafter:
    """Model and context of a drafter. Close it before the verifier's context is freed.

    Attributes:
        core: what a session takes.
        context: its ``llama_context``.

    Args:
        info: the checked file; its pair with the verifier has to be checked too.
        verifier: the verifier's ``llama_context``; embedding and head are borrowed from it.
        verifier_params: parameters that context was made with: threads, types, offloading.
        n_ctx: positions of context that it sees at most; None: all of the verifier's.
        placement: the devices that hold it.
        device_top_k: its head lies on a device, which shall choose the likeliest tokens.

    Raises:
        AllocationError: there is not the memory for it.
        BackendError: libllama could not load the file or make the context.
        ModelError: what it loaded is not what the file's header says.
    """

    def __init__(
        self,
        info: DrafterInfo,
        verifier: Any,
        verifier_params: Any,
        *,
        n_ctx: int | None = None,
        placement: Placement | None = None,
        device_top_k: bool = False,
    ) -> None:
        self.info = info
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            model = _load_model(info, placement or Placement())
            stack.callback(llama_cpp.llama_model_free, model)
            n_verifier = llama_cpp.llama_n_ctx(verifier)
            n_ctx = min(n_verifier, n_ctx or n_verifier)
            params = _context_params(info, verifier, verifier_params, n_ctx)
            context = _make_context(info, model, params)
            stack.callback(llama_cpp.llama_free, context)
            options = drafter_options(info, n_ctx)
            options.device_top_k = device_top_k
            self.context = context
            try:
                self.core = _core.Drafter(address(context), options)
            except ValueError as error:
                raise ModelError(f"{info.path}: {error}") from error
            _try_out(info, self.core)
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Frees context and model."""
        self._stack.close()


def drafter_options(info: DrafterInfo, n_ctx: int) -> _core.DrafterOptions:
    """The part of a drafter's description that the C++ loop needs."""
    options = _core.DrafterOptions()
    options.kind = getattr(_core.DrafterKind, info.kind)
    options.block_size = info.block_size
    options.mask_token = info.mask_token
    options.causal = info.causal
    options.sample_from_anchor = info.sample_from_anchor
    options.has_confidence = info.has_confidence
    options.n_ctx = n_ctx
    return options


def address(pointer: Any) -> int:
    """A ctypes pointer as the integer that ``_core`` takes."""
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0


def _load_model(info: DrafterInfo, placement: Placement) -> Any:
    params = llama_cpp.llama_model_default_params()
    kept = placement.apply(params)
    with captured_log() as log:
        model = llama_cpp.llama_model_load_from_file(os.fsencode(info.path), params)
    del kept
    if model is None:
        raise _failure(info, "could not load the drafter", log)
    return model


def _make_context(info: DrafterInfo, model: Any, params: Any) -> Any:
    with captured_log() as log:
        context = llama_cpp.llama_init_from_model(model, params)
    if context is None:
        raise _failure(info, "could not make the drafter's context", log)
    return context


def _try_out(info: DrafterInfo, drafter: _core.Drafter) -> None:
    """Lets a drafter that does not fit the memory fail now, not in the middle of an answer."""
    with captured_log() as log:
        try:
            drafter.try_out()
        except (RuntimeError, MemoryError) as error:
            raise _failure(info, "could not run the drafter", [*log, str(error)]) from error


def _failure(info: DrafterInfo, what: str, lines: list[str]) -> BackendError:
    """What to raise after libllama said ``lines``: of an allocation the first is the cause."""
    no_memory = [line for line in lines if _NO_MEMORY.search(line)]
    kind = AllocationError if no_memory else BackendError
    why = " ".join("".join(no_memory[:1] or lines).split()) or "it does not say why"
    return kind(f"{info.path}: llama-cpp-python {llama_cpp.__version__} {what}: {why}")


def _context_params(info: DrafterInfo, verifier: Any, verifier_params: Any, n_ctx: int) -> Any:
    params = llama_cpp.llama_context_default_params()
    # A block lies beside what the drafter sees of the text, or ends where the verifier's context
    # does: the room for drafts is counted there.
    params.n_ctx = min(llama_cpp.llama_n_ctx(verifier), n_ctx + info.block_size + 1)
    params.n_ubatch = params.n_batch = max(_N_UBATCH, info.block_size + 1)
    params.n_seq_max = 1
    # Rows of logits of one block. 0 would mean n_batch rows of them.
    params.n_outputs_max = info.block_size + 1
    params.n_outputs_max_per_seq = info.block_size + 1
    # A block is always a batch, so both counts mean the same here.
    params.n_threads = verifier_params.n_threads_batch
    params.n_threads_batch = verifier_params.n_threads_batch
    params.offload_kqv = verifier_params.offload_kqv
    params.op_offload = verifier_params.op_offload
    params.type_k = verifier_params.type_k
    params.type_v = verifier_params.type_v
    params.flash_attn_type = verifier_params.flash_attn_type
    params.no_perf = verifier_params.no_perf
    params.ctx_other = verifier
    return params

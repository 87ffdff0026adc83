"""A drafter loaded by libllama, ready to draft for a verifier's context."""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import Any

import llama_cpp

from ._api import _core
from .drafter_file import DrafterInfo
from .errors import BackendError, ModelError
from .llama_log import captured_log

__all__ = ["LoadedDrafter"]


class LoadedDrafter:
    """Model and context of a drafter. Close it before the verifier's context is freed.

    Args:
        info: the checked file; its pair with the verifier has to be checked too.
        verifier: the verifier's ``llama_context``; embedding and head are borrowed from it.
        verifier_params: parameters that context was made with: size, threads, offloading.
        n_gpu_layers: layers of the drafter to offload.

    Raises:
        BackendError: libllama could not load the file or make the context.
        ModelError: what it loaded is not what the file's header says.
    """

    def __init__(
        self,
        info: DrafterInfo,
        verifier: Any,
        verifier_params: Any,
        *,
        n_gpu_layers: int = 0,
    ) -> None:
        self.info = info
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            model = _load_model(info, n_gpu_layers)
            stack.callback(llama_cpp.llama_model_free, model)
            params = _context_params(info, verifier, verifier_params)
            context = llama_cpp.llama_init_from_model(model, params)
            if context is None:
                raise BackendError(f"{info.path}: libllama could not make the drafter's context")
            stack.callback(llama_cpp.llama_free, context)
            try:
                self.core = _core.Drafter(address(context), drafter_options(info))
            except ValueError as error:
                raise ModelError(f"{info.path}: {error}") from error
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Frees context and model."""
        self._stack.close()


def drafter_options(info: DrafterInfo) -> _core.DrafterOptions:
    """The part of a drafter's description that the C++ loop needs."""
    options = _core.DrafterOptions()
    options.kind = getattr(_core.DrafterKind, info.kind)
    options.block_size = info.block_size
    options.mask_token = info.mask_token
    options.causal = info.causal
    options.sample_from_anchor = info.sample_from_anchor
    options.has_confidence = info.has_confidence
    return options


def address(pointer: Any) -> int:
    """A ctypes pointer as the integer that ``_core`` takes."""
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0


def _load_model(info: DrafterInfo, n_gpu_layers: int) -> Any:
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = n_gpu_layers
    with captured_log() as log:
        model = llama_cpp.llama_model_load_from_file(os.fsencode(info.path), params)
    if model is None:
        raise BackendError(
            f"{info.path}: llama-cpp-python {llama_cpp.__version__} could not load the drafter: "
            f"{''.join(log).strip() or 'it does not say why'}"
        )
    return model


def _context_params(info: DrafterInfo, verifier: Any, verifier_params: Any) -> Any:
    params = llama_cpp.llama_context_default_params()
    # A block ends where the verifier's context does: the room for drafts is counted there.
    params.n_ctx = llama_cpp.llama_n_ctx(verifier)
    params.n_ubatch = max(verifier_params.n_ubatch, info.block_size + 1)
    params.n_batch = params.n_ubatch
    params.n_seq_max = 1
    # Rows of logits of one block. 0 would mean n_batch rows of them.
    params.n_outputs_max = info.block_size + 1
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

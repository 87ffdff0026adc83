"""The seam with ``llama_cpp.Llama``: its context made anew for drafting, and a session on it.

The parent makes its context with parameters that its constructor does not show, so that context is
closed and made again. Everything that reaches into the parent for that is here.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import llama_cpp
import numpy as np
from llama_cpp import _internals as internals

from ._api import _core
from .drafter import LoadedDrafter, address
from .gguf_header import GGUFHeader
from .hub import fingerprint
from .pairing import DrafterInfo, VerifierInfo

if TYPE_CHECKING:
    from .llama import Llama


def verifier_info(llm: Llama) -> VerifierInfo:
    """The loaded verifier, as pairing sees it."""
    header = GGUFHeader(llm.model_path)
    template = header.get("tokenizer.chat_template")
    return VerifierInfo(
        path=header.path,
        architecture=str(header.get("general.architecture")),
        n_embd=llm.n_embd(),
        n_layer=llama_cpp.llama_model_n_layer(llm._model.model),
        tokens=header.get("tokenizer.ggml.tokens") or [],
        chat_template=template if isinstance(template, str) else None,
    )


def remake_context(llm: Llama, info: DrafterInfo) -> int:
    """Makes the verifier's context again, for blocks; gives the rows of logits that it holds."""
    llm._ctx.close()
    params = llm.context_params
    rows = int(llm.n_batch)
    if not (llm._logits_all or params.embeddings):
        # Rows for a block instead of a whole batch: they take n_vocab floats each.
        rows = params.n_outputs_max = min(info.max_width + 1, rows)
    if _is_recurrent(llm):
        # Such a memory takes back only what it holds snapshots of.
        params.n_rs_seq = info.max_width
    context = internals.LlamaContext(model=llm._model, params=params, verbose=llm.verbose)
    llm._ctx = llm._stack.enter_context(contextlib.closing(context))
    _apply_lora(llm)
    return rows


def can_take_back(llm: Llama, n_tokens: int) -> bool:
    """Whether the verifier's memory can drop that many tokens at its end."""
    return not _is_recurrent(llm) or llama_cpp.llama_n_rs_seq(llm._ctx.ctx) >= n_tokens


def open_session(llm: Llama, info: DrafterInfo, rows: int, width: int | None) -> _core.Session:
    """Loads the drafter; the verifier's stack closes both, before its context."""
    drafter = LoadedDrafter(
        info, llm._ctx.ctx, llm.context_params, n_gpu_layers=llm.model_params.n_gpu_layers
    )
    llm._stack.callback(drafter.close)
    verifier = _core.Verifier(
        address(llm._ctx.ctx), max_rows=rows, feature_layers=list(info.target_layers)
    )
    session = _core.Session(verifier, drafter.core, width=width)
    llm._stack.callback(session.close)
    return session


def pair_key(llm: Llama, info: DrafterInfo) -> dict[str, object]:
    """All that the cost of decoding this pair depends on, as plain values."""
    model, context = llm.model_params, llm.context_params
    return {
        "verifier": fingerprint(Path(llm.model_path)),
        "drafter": fingerprint(info.path),
        "llama-cpp-python": llama_cpp.__version__,
        "machine": [
            llama_cpp.llama_print_system_info().decode(),
            os.cpu_count(),
            platform.machine(),
            platform.node(),
        ],
        "threads": [llm.n_threads, llm.n_threads_batch],
        "gpu": [model.n_gpu_layers, model.split_mode, model.main_gpu, list(llm.tensor_split or [])],
        "context": [
            context.n_batch,
            context.n_ubatch,
            context.type_k,
            context.type_v,
            context.flash_attn_type,
            context.offload_kqv,
            context.op_offload,
        ],
        "lora": llm.lora_path,
    }


def grow_arrays(llm: Llama) -> None:
    """Room for the whole context: libllama rounds n_ctx up, the parent counts what was asked."""
    missing = llm._n_ctx - len(llm.input_ids)
    if missing > 0:
        llm.input_ids = np.pad(llm.input_ids, (0, missing))
        if llm._logits_all:
            llm.scores = np.pad(llm.scores, ((0, missing), (0, 0)))


def _is_recurrent(llm: Llama) -> bool:
    return bool(llm._is_recurrent or llm._is_hybrid)


def _apply_lora(llm: Llama) -> None:
    if llm._lora_adapter is None:
        return
    adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(llm._lora_adapter)
    scales = (ctypes.c_float * 1)(llm.lora_scale)
    if llama_cpp.llama_set_adapters_lora(llm._ctx.ctx, adapters, 1, scales):
        raise RuntimeError(f"failed to set the LoRA adapter {llm.lora_path}")

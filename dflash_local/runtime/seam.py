"""The seam with ``llama_cpp.Llama``: its context made anew for drafting, and a session on it.

The parent makes its context with parameters that its constructor does not show, so that context is
closed and made again. Everything that reaches into the parent for that is here.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llama_cpp
import numpy as np

from dflash_local._api import _core, internals
from dflash_local.errors import AllocationError
from dflash_local.files.fingerprint import fingerprint
from dflash_local.files.gguf_header import GGUFHeader
from dflash_local.files.model_header import chat_template
from dflash_local.files.pairing import DrafterInfo, VerifierInfo
from dflash_local.files.taps import TAPS, Tap
from dflash_local.files.token_lists import token_types
from dflash_local.machine.machine_key import gibibytes, machine_key
from dflash_local.machine.rpc import devices_of

from . import observing
from .drafter import LoadedDrafter, address
from .placement import Placement

if TYPE_CHECKING:
    from .llama import Llama


def verifier_info(llm: Llama) -> VerifierInfo:
    """The loaded verifier, as pairing sees it."""
    header = GGUFHeader(llm.model_path)
    return VerifierInfo(
        path=header.path,
        architecture=str(header.get("general.architecture")),
        n_embd=llm.n_embd(),
        n_layer=llama_cpp.llama_model_n_layer(llm._model.model),
        tokens=header.get("tokenizer.ggml.tokens") or [],
        chat_template=chat_template(header),
        token_types=token_types(header),
    )


def remake_context(llm: Llama, info: DrafterInfo, width: int | None) -> int | None:
    """Makes the verifier's context again, for blocks.

    Args:
        width: drafts a step that were asked for; None: as many as the drafter gives.

    Returns:
        The rows of logits that it holds: those that a step may verify. 0 where its memory cannot
        take back a single token. None where there is no memory for that: it is made again as it
        was.

    Raises:
        BackendError: the features of this verifier are not to be had from this build of ggml.
    """
    llm._watch = observing.watch_for(_tap(llm))
    llm._ctx.close()
    params = llm.context_params
    before = (params.n_outputs_max, params.n_rs_seq)
    rows: int | None = set_for_blocks(llm, info, width, params)
    observing.observe(params, llm._watch)
    try:
        context = internals.LlamaContext(model=llm._model, params=params, verbose=llm.verbose)
    except ValueError:
        params.n_outputs_max, params.n_rs_seq = before
        observing.observe(params, None)
        context = internals.LlamaContext(model=llm._model, params=params, verbose=llm.verbose)
        rows = None
    llm._ctx = llm._stack.enter_context(contextlib.closing(context))
    _apply_lora(llm, context)
    return None if rows is None else rows_that_go_back(llm, address(context.ctx), rows, width)


def set_for_blocks(llm: Llama, info: DrafterInfo, width: int | None, params: Any) -> int:
    """Sets what a ``llama_context_params`` needs for blocks of drafts.

    Args:
        width: as for ``remake_context``.

    Returns:
        The rows of logits that the context will hold.
    """
    rows = int(llm.n_batch)
    if not (llm._logits_all or params.embeddings):
        # Rows for a block instead of a whole batch: they take n_vocab floats each.
        rows = params.n_outputs_max = min(info.max_width + 1, llm.n_batch)
    if _is_recurrent(llm):
        # Such a memory takes back only what it holds snapshots of, and each is as large as its
        # state. libllama asserts that they and two tokens more fit in one n_ubatch.
        n_drafts = info.max_width if width is None else min(width, info.max_width)
        params.n_rs_seq = max(0, min(n_drafts, params.n_ubatch - 2, params.n_batch - 2))
    return rows


def rows_that_go_back(llm: Llama, context: int, rows: int, width: int | None) -> int:
    """How many of a context's rows of logits a step may use: its memory takes no more back.

    0 where it cannot take back a single draft.
    """
    if not _is_recurrent(llm):
        return rows
    n_snapshots = int(llama_cpp.llama_n_rs_seq(context))
    return 0 if width != 0 and n_snapshots == 0 else min(rows, n_snapshots + 1)


@contextlib.contextmanager
def watched_context(llm: Llama, params: Any, watch: _core.NodeWatch | None) -> Iterator[int]:
    """The address of a context of the parent's model, whose graph a watch looks into; None: none.

    Raises:
        AllocationError: libllama could not make it.
    """
    observing.observe(params, watch)
    try:
        context = internals.LlamaContext(model=llm._model, params=params, verbose=llm.verbose)
    except ValueError as error:
        raise AllocationError(str(error)) from error
    with contextlib.closing(context):
        _apply_lora(llm, context)
        yield address(context.ctx)


def open_plain_session(llm: Llama) -> _core.Session | None:
    """A session on the context as the parent made it, which decodes plainly.

    None where the model has no memory and so cannot generate; what it computes can be stopped.
    """
    context = address(llm._ctx.ctx)
    if llama_cpp.llama_get_memory(llm._ctx.ctx) is None:
        llm._stop.watch(context)
        return None
    # Drafts that a caller sends are verified where they can be taken back.
    rows = 1 if _is_recurrent(llm) else llm.context_params.n_outputs_max or llm.n_batch
    session = _core.Session(
        _core.Verifier(context, max_rows=rows, feature_layers=[]), stop=llm._stop
    )
    llm._stack.callback(session.close)
    return session


def open_session(
    llm: Llama,
    info: DrafterInfo,
    rows: int,
    *,
    width: int | None,
    n_ctx: int,
    placement: Placement,
) -> _core.Session:
    """Loads the drafter; the verifier's stack closes both, before its context."""
    drafter = LoadedDrafter(
        info,
        llm._ctx.ctx,
        llm.context_params,
        n_ctx=n_ctx,
        placement=placement,
        # The verifier's head is the first of its layers that is offloaded, and most drafters' too.
        device_top_k=placement.on_device and llm.model_params.n_gpu_layers != 0,
    )
    llm._stack.callback(drafter.close)
    verifier = tapped_verifier(
        llm, address(llm._ctx.ctx), info.target_layers, llm._watch, max_rows=rows
    )
    if llm._watch is not None:
        # A graph without the nodes fails now, not in the middle of an answer.
        read_features(llm, [0, 0], info.target_layers)
    session = _core.Session(verifier, drafter.core, width=width, stop=llm._stop)
    llm._stack.callback(session.close)
    return session


def tapped_verifier(
    llm: Llama,
    context: int,
    layers: Sequence[int],
    watch: _core.NodeWatch | None,
    *,
    max_rows: int,
) -> _core.Verifier:
    """A verifier on a context of the parent's model, with features by its architecture's tap.

    Args:
        watch: the context's; where the tap is native it does not matter.
    """
    node = _tap(llm).node
    return _core.Verifier(
        context,
        max_rows=max_rows,
        feature_layers=list(layers),
        watch=None if node is None else watch,
        node=node or "",
    )


def read_features(llm: Llama, tokens: Sequence[int], layers: Sequence[int]) -> Any:
    """The inputs of any layers for a text, [n, layers * n_embd].

    The context is one that was made for drafting. It is empty afterwards, and so the session on it
    has to be.
    """
    context = address(llm._ctx.ctx)
    verifier = tapped_verifier(llm, context, layers, llm._watch, max_rows=1)
    features, _, _ = _core.read(verifier, np.asarray(tokens, np.int32), 0)
    llm._ctx.kv_cache_clear()
    return features


def _tap(llm: Llama) -> Tap:
    return TAPS[llm.metadata["general.architecture"]]


def pair_key(llm: Llama, info: DrafterInfo, placement: Placement) -> dict[str, object]:
    """All that the cost of decoding this pair depends on, as plain values."""
    model, context = llm.model_params, llm.context_params
    return {
        "verifier": fingerprint(Path(llm.model_path)),
        "drafter": fingerprint(info.path),
        "llama-cpp-python": llama_cpp.__version__,
        "machine": machine_key(),
        "threads": [llm.n_threads, llm.n_threads_batch],
        "gpu": [model.n_gpu_layers, model.split_mode, model.main_gpu, list(llm.tensor_split or [])],
        "drafter_gpu": dataclasses.asdict(placement) | {"rpc": _servers(placement.rpc)},
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


def _servers(rpc: Sequence[str]) -> list[list[int]]:
    """They are known by their devices' memory: where they are reached may change every time."""
    return [[gibibytes(device) for device in devices_of(endpoint)] for endpoint in rpc]


def _is_recurrent(llm: Llama) -> bool:
    return bool(llm._is_recurrent or llm._is_hybrid)


def _apply_lora(llm: Llama, context: Any) -> None:
    if llm._lora_adapter is None:
        return
    adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(llm._lora_adapter)
    scales = (ctypes.c_float * 1)(llm.lora_scale)
    if llama_cpp.llama_set_adapters_lora(context.ctx, adapters, 1, scales):
        raise RuntimeError(f"failed to set the LoRA adapter {llm.lora_path}")

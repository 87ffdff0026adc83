"""A drafter's GGUF file: what the loop has to know of it, and whether libllama may load it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .errors import ModelError
from .gguf_header import GGUFHeader

MAX_BLOCK_SIZE = 256
_ROPE_SCALING = ("none", "linear", "yarn", "longrope")
_MAX_LAYERS = 512  # llama.cpp's own limit, an assertion there


@dataclass(frozen=True)
class DrafterInfo:
    """A drafter as its file describes it.

    Attributes:
        kind: "dflash", "dflash2" (selector) or "dspark" (Markov head).
        block_size: tokens of the trained block, anchor included.
        mask_token: stands for the tokens to be drafted.
        target_layers: verifier layers whose *inputs* are the features, in order.
        causal: attention within the block.
        sample_from_anchor: DSpark only: the anchor's row predicts too.
        has_confidence: DSpark only: a confidence head is there.
        tokens: the vocabulary, which has to be the verifier's.
        chat_template: the one that came with the verifier it was made for.
    """

    path: Path
    kind: str
    block_size: int
    mask_token: int
    target_layers: tuple[int, ...]
    n_embd: int
    n_layer: int
    causal: bool
    sample_from_anchor: bool
    has_confidence: bool
    tokens: Sequence[bytes] = field(repr=False)
    chat_template: str | None = field(default=None, repr=False)

    @property
    def max_width(self) -> int:
        """Drafts that a block gives at most."""
        return self.block_size - (0 if self.sample_from_anchor else 1)


def read_drafter(path: str | os.PathLike[str]) -> DrafterInfo:
    """Reads and checks a drafter's file.

    Raises:
        ModelError: lists everything that is wrong with the file.
    """
    header = GGUFHeader(path)
    architecture = header.get("general.architecture")
    if architecture != "dflash":
        raise ModelError(
            f"{header.path}: architecture {architecture!r}, expected 'dflash': this is no drafter. "
            "Convert a trained one with dflash-convert"
        )
    problems = drafter_problems(header)
    if problems:
        lines = "".join(f"\n  - {problem}" for problem in problems)
        raise ModelError(f"{header.path}: not a usable DFlash drafter:{lines}")
    return _describe(header)


def drafter_problems(header: GGUFHeader) -> list[str]:
    """Everything that is wrong with a file of architecture ``dflash``, a line each."""
    # The tensors are judged by the keys, so these have to be right first.
    return [*_key_problems(header)] or [*_tensor_problems(header)]


def _describe(header: GGUFHeader) -> DrafterInfo:
    kind = _kind(header)
    template = header.get("tokenizer.chat_template")
    return DrafterInfo(
        path=header.path,
        kind=kind,
        block_size=header.get("dflash.block_size"),
        mask_token=header.get("tokenizer.ggml.mask_token_id"),
        target_layers=tuple(header.get("dflash.target_layers")),
        n_embd=header.get("dflash.embedding_length"),
        n_layer=header.get("dflash.block_count"),
        causal=bool(header.get("dflash.attention.causal", False)),
        # libllama's default where the key is missing
        sample_from_anchor=kind == "dspark" and header.get("dflash.sample_from_anchor", True),
        has_confidence=kind == "dspark" and "conf_proj.weight" in header.tensors,
        tokens=header.get("tokenizer.ggml.tokens"),
        chat_template=template if isinstance(template, str) else None,
    )


def _kind(header: GGUFHeader) -> str:
    if "selector_hidden.weight" in header.tensors:
        return "dflash2"
    return "dspark" if "markov_w1.weight" in header.tensors else "dflash"


def _key_problems(header: GGUFHeader) -> Iterator[str]:
    for key, low, high in (
        ("dflash.block_count", 1, _MAX_LAYERS),
        ("dflash.embedding_length", 1, 1 << 20),
        ("dflash.feed_forward_length", 1, 1 << 22),
        ("dflash.attention.head_count", 1, 1 << 16),
        ("dflash.block_size", 2, MAX_BLOCK_SIZE),
    ):
        yield from _range_problem(header, key, low, high)
    yield from _head_problems(header)
    yield from _vocabulary_problems(header)
    yield from _target_layer_problems(header)
    yield from _assertion_problems(header)
    if "dflash.hyper_connection_count" in header:
        yield "a DeepSeek-V4 drafter (hyper connections): not supported"


def _range_problem(header: GGUFHeader, key: str, low: int, high: int) -> Iterator[str]:
    value = header.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        yield f"{key}: found {value!r}, expected a number from {low} to {high}"


def _head_problems(header: GGUFHeader) -> Iterator[str]:
    n_head = header.get("dflash.attention.head_count")
    n_head_kv = header.get("dflash.attention.head_count_kv", n_head)
    if isinstance(n_head, int) and n_head > 0:
        fits = isinstance(n_head_kv, int) and n_head_kv > 0 and n_head % n_head_kv == 0
        if not fits:
            key = "dflash.attention.head_count_kv"
            yield f"{key}: found {n_head_kv!r}, expected a divisor of {n_head}"
    key_length = header.get("dflash.attention.key_length", 2)
    value_length = header.get("dflash.attention.value_length", key_length)
    if key_length != value_length or not isinstance(key_length, int) or key_length % 2:
        yield (
            f"dflash.attention.key_length and value_length: found {key_length!r} and "
            f"{value_length!r}, expected the same even number"
        )


# What libllama asserts when it loads, or would never come back from.
def _assertion_problems(header: GGUFHeader) -> Iterator[str]:
    key = "dflash.attention.layer_norm_rms_epsilon"
    epsilon = header.get(key)
    if not isinstance(epsilon, float) or not 0 <= epsilon < 1:
        yield f"{key}: found {epsilon!r}, expected a number from 0 to 1"
    scaling = header.get("dflash.rope.scaling.type", "none")
    if scaling not in _ROPE_SCALING:
        expected = ", ".join(_ROPE_SCALING)
        yield f"dflash.rope.scaling.type: found {scaling!r}, expected one of {expected}"
    for name in ("expert_count", "expert_used_count", "expert_group_count", "nextn_predict_layers"):
        if header.get(f"dflash.{name}", 0) != 0:
            yield f"dflash.{name}: found {header.get(f'dflash.{name}')!r}, expected 0 or none"
    yield from _rope_size_problems(header)


def _rope_size_problems(header: GGUFHeader) -> Iterator[str]:
    n_embd, n_head = (
        header.get(f"dflash.{key}") for key in ("embedding_length", "attention.head_count")
    )
    if not isinstance(n_embd, int) or not isinstance(n_head, int) or n_head < 1:
        return  # reported already
    head = header.get("dflash.attention.key_length", n_embd // n_head)
    for key in ("dflash.rope.dimension_count", "dflash.rope.dimension_count_swa"):
        n_rot = header.get(key, head)
        fits = isinstance(n_rot, int) and isinstance(head, int) and 2 <= n_rot <= head
        if not fits or n_rot % 2:
            yield f"{key}: found {n_rot!r}, expected an even number from 2 to {head}"


def _vocabulary_problems(header: GGUFHeader) -> Iterator[str]:
    tokens = header.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        yield "tokenizer.ggml.tokens: missing; convert the drafter again with --verifier"
        return
    mask = header.get("tokenizer.ggml.mask_token_id")
    if not isinstance(mask, int) or not 0 <= mask < len(tokens):
        yield (
            f"tokenizer.ggml.mask_token_id: found {mask!r}, expected a token below {len(tokens)}; "
            "convert the drafter again with dflash-convert"
        )


def _target_layer_problems(header: GGUFHeader) -> Iterator[str]:
    layers = header.get("dflash.target_layers")
    if not isinstance(layers, list) or not layers:
        yield f"dflash.target_layers: found {layers!r}, expected the verifier's layers to read"
    elif any(not isinstance(layer, int) or layer < 0 for layer in layers):
        yield f"dflash.target_layers: found {layers!r}, expected layers from 0 on"


def _tensor_problems(header: GGUFHeader) -> Iterator[str]:
    for name, shape in _expected_shapes(header).items():
        found = header.tensors.get(name)
        if found is None:
            yield f"tensor {name}: missing, expected shape {list(shape)}"
        elif found.shape != shape:
            yield f"tensor {name}: found shape {list(found.shape)}, expected {list(shape)}"
    yield from _d2t_problems(header)
    if "d2t" in header.tensors and "output.weight" not in header.tensors:
        yield "tensor output.weight: missing, expected the rows of the reduced vocabulary"


def _expected_shapes(header: GGUFHeader) -> dict[str, tuple[int, ...]]:
    n_embd = header.get("dflash.embedding_length")
    n_ff = header.get("dflash.feed_forward_length")
    n_head = header.get("dflash.attention.head_count")
    n_head_kv = header.get("dflash.attention.head_count_kv", n_head)
    head = header.get("dflash.attention.key_length", n_embd // n_head)
    shapes: dict[str, tuple[int, ...]] = {
        "fc.weight": (n_embd * len(header.get("dflash.target_layers")), n_embd),
        "enc.output_norm.weight": (n_embd,),
        "output_norm.weight": (n_embd,),
    }
    for i in range(header.get("dflash.block_count")):
        shapes |= {
            f"blk.{i}.attn_norm.weight": (n_embd,),
            f"blk.{i}.attn_q.weight": (n_embd, head * n_head),
            f"blk.{i}.attn_k.weight": (n_embd, head * n_head_kv),
            f"blk.{i}.attn_output.weight": (head * n_head, n_embd),
            f"blk.{i}.attn_q_norm.weight": (head,),
            f"blk.{i}.attn_k_norm.weight": (head,),
            f"blk.{i}.ffn_norm.weight": (n_embd,),
            f"blk.{i}.ffn_gate.weight": (n_embd, n_ff),
            f"blk.{i}.ffn_up.weight": (n_embd, n_ff),
            f"blk.{i}.ffn_down.weight": (n_ff, n_embd),
        }
    return shapes


# ggml scatters the draft's logits by these indices without looking.
def _d2t_problems(header: GGUFHeader) -> Iterator[str]:
    if "d2t" not in header.tensors:
        return
    n_vocab = header.length("tokenizer.ggml.tokens")
    ids = header.i64("d2t")
    if ids is None:
        yield "tensor d2t: expected token ids of type I64"
    elif ids.size == 0 or int(ids.min()) < 0 or int(ids.max()) >= n_vocab:
        yield f"tensor d2t: expected token ids from 0 to {n_vocab - 1}"
    elif len(np.unique(ids)) != ids.size:
        yield "tensor d2t: expected every token once"

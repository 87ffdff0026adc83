"""Tensor names and shapes: what a checkpoint must hold, and what each becomes in GGUF."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .drafter import DrafterConfig
from .safetensors_file import FLOAT_TYPES, Float32Array, StoredTensor
from .source import Source

OPTIONAL_PREFIX = "model."
# Buffers that some trainers save and nobody needs.
IGNORED_SUFFIXES = (".rotary_emb.inv_freq",)


@dataclass(frozen=True)
class Expected:
    """A tensor a checkpoint must hold.

    Attributes:
        source: published name, without the optional ``model.`` prefix.
        target: name in GGUF; None for a tensor that is known and left out.
        shape: as torch has it, rows first.
        head_dim: above 0 where neighbouring rotary pairs have to become halves.
    """

    source: str
    target: str | None
    shape: tuple[int, ...]
    head_dim: int = 0


@dataclass(frozen=True)
class Match:
    """An expected tensor and where it is stored."""

    expected: Expected
    stored: StoredTensor

    def pieces(self) -> Iterator[Float32Array]:
        """The values as they are written to GGUF, F32, some rows at a time."""
        head_dim = self.expected.head_dim
        for values in self.stored.pieces(head_dim or 1):
            yield _halves(values, head_dim) if head_dim else values


def layer_tensors(config: DrafterConfig, layer: int) -> list[Expected]:
    """The eleven tensors of one Qwen3-style layer."""
    n_embd, n_ff, head_dim = config.n_embd, config.n_ff, config.head_dim
    n_q, n_kv = config.n_head * head_dim, config.n_head_kv * head_dim
    pairs = head_dim if config.interleaved_rope else 0
    rows = (
        ("input_layernorm", "attn_norm", (n_embd,), 0),
        ("self_attn.q_proj", "attn_q", (n_q, n_embd), pairs),
        ("self_attn.k_proj", "attn_k", (n_kv, n_embd), pairs),
        ("self_attn.v_proj", "attn_v", (n_kv, n_embd), 0),
        ("self_attn.o_proj", "attn_output", (n_embd, n_q), 0),
        ("self_attn.q_norm", "attn_q_norm", (head_dim,), pairs),
        ("self_attn.k_norm", "attn_k_norm", (head_dim,), pairs),
        ("post_attention_layernorm", "ffn_norm", (n_embd,), 0),
        ("mlp.gate_proj", "ffn_gate", (n_ff, n_embd), 0),
        ("mlp.up_proj", "ffn_up", (n_ff, n_embd), 0),
        ("mlp.down_proj", "ffn_down", (n_embd, n_ff), 0),
    )
    return [
        Expected(f"layers.{layer}.{source}.weight", f"blk.{layer}.{target}.weight", shape, pair)
        for source, target, shape, pair in rows
    ]


def vocabulary_tensors(config: DrafterConfig, source: Source) -> list[Expected]:
    """The drafter's own embedding and head, where it has them; else the verifier's serve."""
    shape = (config.n_vocab or 0, config.n_embd)
    borrowed = source.config.get("has_embed_tokens") is False
    tensors = [
        Expected("embed_tokens.weight", None if borrowed else "token_embd.weight", shape),
        Expected("lm_head.weight", "output.weight", shape),
    ]
    return [tensor for tensor in tensors if find(source, tensor.source) is not None]


def find(source: Source, name: str) -> StoredTensor | None:
    """A tensor by its published name, with or without the ``model.`` prefix."""
    return source.tensors.get(name) or source.tensors.get(OPTIONAL_PREFIX + name)


def stored_rows(source: Source) -> int | None:
    """Vocabulary rows of the checkpoint's own embedding, or None where it has none."""
    embedding = find(source, "embed_tokens.weight")
    return embedding.shape[0] if embedding is not None and embedding.shape else None


def match(source: Source, expected: list[Expected]) -> tuple[list[Match], list[str]]:
    """Pair expected with stored tensors; the second list names every misfit, one line each."""
    found = [(item, find(source, item.source)) for item in expected]
    problems = [f"missing tensor {item.source} {item.shape}" for item, at in found if at is None]
    problems += _unknown(source, {item.source for item in expected})
    matches = [Match(item, stored) for item, stored in found if stored is not None]
    problems += [text for item in matches if (text := _misfit(item))]
    return [item for item in matches if item.expected.target is not None], problems


def _unknown(source: Source, known: set[str]) -> list[str]:
    problems = []
    for name, tensor in sorted(source.tensors.items()):
        bare = name.removeprefix(OPTIONAL_PREFIX)
        if bare != name and bare in source.tensors:
            problems.append(f"tensor {bare} is there twice, with and without the prefix `model.`")
        elif bare not in known and not name.endswith(IGNORED_SUFFIXES):
            problems.append(f"unknown tensor {name} {tensor.shape}: nothing would read it")
    return problems


def _misfit(item: Match) -> str | None:
    stored, expected = item.stored, item.expected
    if stored.shape != expected.shape:
        return f"tensor {stored.name}: found shape {stored.shape}, expected {expected.shape}"
    if stored.dtype not in FLOAT_TYPES:
        types = ", ".join(FLOAT_TYPES)
        return f"tensor {stored.name}: found type {stored.dtype}, expected one of {types}"
    return None


def _halves(values: Float32Array, head_dim: int) -> Float32Array:
    # Per head: even dimensions first, then odd, as llama.cpp's NeoX rotation wants them.
    pairs = values.reshape(-1, head_dim // 2, 2, *values.shape[1:])
    return np.reshape(pairs.swapaxes(1, 2), values.shape)

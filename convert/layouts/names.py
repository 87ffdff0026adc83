"""Tensor names and shapes: what a checkpoint must hold, and what each becomes in GGUF."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..reading.safetensors_file import FLOAT_TYPES, Float32Array, StoredTensor
from ..reading.source import Source

# Buffers that some trainers save and nobody needs.
IGNORED_SUFFIXES = (".rotary_emb.inv_freq",)


@dataclass(frozen=True)
class Expected:
    """A tensor a checkpoint must hold.

    Attributes:
        source: published name, without a wrapper's prefix.
        target: name in GGUF; None for a tensor that is known and not written as it is.
        shape: as torch has it, rows first.
        head_dim: above 0 where neighbouring rotary pairs have to become halves.
        n_zeros: columns of zeros that GGUF has behind the stored ones.
        dtypes: safetensors' names of the types it may have.
    """

    source: str
    target: str | None
    shape: tuple[int, ...]
    head_dim: int = 0
    n_zeros: int = 0
    dtypes: tuple[str, ...] = tuple(FLOAT_TYPES)


@dataclass(frozen=True)
class Match:
    """An expected tensor and where it is stored."""

    expected: Expected
    stored: StoredTensor

    @property
    def shape(self) -> tuple[int, ...]:
        """As it is written, rows first."""
        *rows, n_columns = self.expected.shape
        return (*rows, n_columns + self.expected.n_zeros)

    def pieces(self) -> Iterator[Float32Array]:
        """The values as they are written to GGUF, F32, some rows at a time."""
        head_dim, n_zeros = self.expected.head_dim, self.expected.n_zeros
        for values in self.stored.pieces(head_dim or 1):
            values = _halves(values, head_dim) if head_dim else values
            yield np.pad(values, ((0, 0), (0, n_zeros))) if n_zeros else values


def find(source: Source, name: str) -> StoredTensor | None:
    """A tensor by its published name."""
    return source.tensors.get(name)


def spelled(source: Source, *names: str) -> str:
    """The one of several published names that is stored; the first where none is."""
    return next((name for name in names if find(source, name) is not None), names[0])


def match(source: Source, expected: list[Expected]) -> tuple[list[Match], list[str]]:
    """Pair expected with stored tensors; the second list names every misfit, one line each."""
    found = [(item, find(source, item.source)) for item in expected]
    problems = [f"missing tensor {item.source} {item.shape}" for item, at in found if at is None]
    problems += _unknown(source, {item.source for item in expected})
    matches = [Match(item, stored) for item, stored in found if stored is not None]
    problems += [text for item in matches if (text := _misfit(item))]
    return [item for item in matches if item.expected.target is not None], problems


def _unknown(source: Source, known: set[str]) -> list[str]:
    return [
        f"unknown tensor {tensor.name} {tensor.shape}: nothing would read it"
        for name, tensor in sorted(source.tensors.items())
        if name not in known and not name.endswith(IGNORED_SUFFIXES)
    ]


def _misfit(item: Match) -> str | None:
    stored, expected = item.stored, item.expected
    if stored.shape != expected.shape:
        return f"tensor {stored.name}: found shape {stored.shape}, expected {expected.shape}"
    if stored.dtype not in expected.dtypes:
        types = ", ".join(expected.dtypes)
        return f"tensor {stored.name}: found type {stored.dtype}, expected one of {types}"
    return None


def _halves(values: Float32Array, head_dim: int) -> Float32Array:
    # Per head: even dimensions first, then odd, as llama.cpp's NeoX rotation wants them.
    pairs = values.reshape(-1, head_dim // 2, 2, *values.shape[1:])
    return np.reshape(pairs.swapaxes(1, 2), values.shape)

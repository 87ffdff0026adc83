"""Weights as the forward pass reads them: by rows, from a checkpoint or from a GGUF file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dflash_local.errors import DFlashError
from dflash_local.files.gguf_header import GGUFHeader

from ..layouts.names import Match
from ..reading.gguf_tensors import dequantized, row_pieces, stored_rows, tensor_type, type_name
from ..reading.mask_embedding import with_mask_row
from ..reading.safetensors_file import Array, Float32Array

EMBEDDING, HEAD = "token_embd.weight", "output.weight"
_TOGETHER = 1 << 14  # rows


class CannotCheck(DFlashError):  # noqa: N818 - no error: nothing is known to be wrong
    """The forward pass cannot be taken: the drafter may be right or wrong."""


@dataclass(frozen=True)
class Weight:
    """A tensor, as F32.

    Attributes:
        shape: as torch has it, rows first.
        pieces: whole rows, from the first to the last, some at a time.
        rows: the rows of these indices.
    """

    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[Float32Array]]
    rows: Callable[[Sequence[int]], Float32Array]

    def read(self) -> Float32Array:
        """The whole tensor."""
        return np.concatenate(list(self.pieces())).reshape(self.shape)

    def project(self, x: Float32Array) -> Float32Array:
        """x times the transpose of a matrix, some of its rows at a time."""
        return np.concatenate([x @ rows.T for rows in self.pieces()], axis=-1)

    def picked(self, ids: Sequence[int]) -> Weight:
        """A matrix of these rows, in their order."""

        def pieces() -> Iterator[Float32Array]:
            for first in range(0, len(ids), _TOGETHER):
                yield self.rows(ids[first : first + _TOGETHER])

        shape = (len(ids), *self.shape[1:])
        return Weight(shape, pieces, lambda rows: self.rows([ids[row] for row in rows]))


def source_weight(match: Match) -> Weight:
    """A tensor of a checkpoint, as the converter reads it."""

    def rows(ids: Sequence[int]) -> Float32Array:
        wanted, first, found = np.asarray(ids), 0, {}
        for piece in match.pieces():
            here = wanted[(wanted >= first) & (wanted < first + len(piece))].tolist()
            found.update({i: piece[i - first] for i in here})
            first += len(piece)
        return np.stack([found[i] for i in wanted.tolist()])

    return Weight(match.shape, match.pieces, rows)


def held(values: Float32Array) -> Weight:
    """A tensor that is in memory."""
    return Weight(values.shape, lambda: [values], lambda ids: values[list(ids)])


def with_row(weight: Weight, index: int, row: tuple[float, ...]) -> Weight:
    """A matrix, one of its rows replaced."""

    def rows(ids: Sequence[int]) -> Float32Array:
        values = weight.rows(ids)
        values[np.asarray(ids) == index] = row
        return values

    return Weight(weight.shape, lambda: with_mask_row(weight.pieces(), index, row), rows)


def gguf_weight(header: GGUFHeader, name: str) -> Weight:
    """A tensor of a GGUF file.

    Raises:
        CannotCheck: nobody but libllama can read its type.
        ModelError: the file is damaged.
    """
    tensor, stored = header.tensors[name], stored_rows(header, name)
    kind = tensor_type(tensor)

    def read(rows: Array) -> Float32Array:
        values = None if kind is None else dequantized(rows, kind)
        if values is None:
            raise CannotCheck(
                f"{header.path}: {name} is stored as {type_name(tensor)}, which only libllama "
                "reads; check with files in F16, BF16, Q8_0, Q4_0 or a K-quant"
            )
        return np.asarray(values, np.float32)

    def pieces() -> Iterator[Float32Array]:
        return (read(rows) for rows in row_pieces(stored))

    read(stored[:1])  # told now rather than in the middle
    return Weight(tensor.shape[::-1], pieces, lambda ids: read(stored[list(ids)]))


def with_borrowed(
    own: Mapping[str, Weight], files: Sequence[Path], *, tied: bool = True
) -> dict[str, Weight]:
    """A drafter's weights with embedding and head, which it may have or borrow.

    Args:
        files: the verifier's, all parts of a split one.
        tied: an embedding of its own is its head too, unless it has a head; as in libllama.

    Raises:
        CannotCheck: the verifier's cannot be read.
    """
    theirs = {name: header for header in map(GGUFHeader, files) for name in header.tensors}
    weights = dict(own)
    if tied and HEAD not in own and EMBEDDING in own:
        weights[HEAD] = own[EMBEDDING]
    for name in (EMBEDDING, HEAD):
        if name in weights:
            continue
        stored = name if name in theirs else EMBEDDING
        if stored not in theirs or "output.scale" in theirs:
            raise CannotCheck(
                f"{files[0]}: {stored} is missing, or stored with a scale of its own; name a "
                "verifier whose parts lie beside each other, in F16 or one of ggml's usual types"
            )
        weights[name] = gguf_weight(theirs[stored], stored)
    return weights

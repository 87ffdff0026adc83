"""Where the forward pass reads weights: the checkpoint, and the verifier's GGUF for the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dflash_local.errors import DFlashError
from dflash_local.gguf_header import GGUFHeader

from .gguf_tensors import dequantized, row_pieces, stored_rows, tensor_type, type_name
from .safetensors_file import Float32Array

EMBEDDING, HEAD = "token_embd.weight", "output.weight"


class CannotCheck(DFlashError):  # noqa: N818 - no error: nothing is known to be wrong
    """The forward pass cannot be taken: the drafter may be right or wrong."""


@dataclass(frozen=True)
class Weight:
    """A tensor, as F32.

    Attributes:
        pieces: whole rows, from the first to the last, some at a time.
        rows: the rows of these indices.
    """

    pieces: Callable[[], Iterable[Float32Array]]
    rows: Callable[[Sequence[int]], Float32Array]

    def read(self) -> Float32Array:
        """The whole tensor."""
        return np.concatenate(list(self.pieces()))

    def project(self, x: Float32Array) -> Float32Array:
        """x times the transpose of a matrix, some of its rows at a time."""
        return np.concatenate([x @ rows.T for rows in self.pieces()], axis=-1)


def streamed(pieces: Callable[[], Iterable[Float32Array]]) -> Weight:
    """A tensor that is known by its stream of rows alone."""

    def rows(ids: Sequence[int]) -> Float32Array:
        wanted, first, found = np.asarray(ids), 0, {}
        for piece in pieces():
            here = wanted[(wanted >= first) & (wanted < first + len(piece))].tolist()
            found.update({i: piece[i - first] for i in here})
            first += len(piece)
        return np.stack([found[i] for i in wanted.tolist()])

    return Weight(pieces, rows)


def gguf_weight(header: GGUFHeader, name: str) -> Weight:
    """A matrix of a GGUF file.

    Raises:
        CannotCheck: nobody but libllama can read its type.
        ModelError: the file is damaged.
    """
    stored = stored_rows(header, name)
    kind = tensor_type(header.tensors[name])

    def read(rows: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Float32Array:
        values = None if kind is None else dequantized(rows, kind)
        if values is None:
            raise CannotCheck(
                f"{header.path}: {name} is stored as {type_name(header.tensors[name])}, which only "
                "libllama reads; check with a verifier in F16, BF16, Q8_0, Q4_0 or a K-quant"
            )
        return np.asarray(values, np.float32)

    def pieces() -> Iterator[Float32Array]:
        return (read(rows) for rows in row_pieces(stored))

    read(stored[:1])  # told now rather than in the middle
    return Weight(pieces, lambda ids: read(stored[list(ids)]))


def with_borrowed(own: Mapping[str, Weight], verifier: Sequence[GGUFHeader]) -> dict[str, Weight]:
    """A drafter's weights with embedding and head, which it may have or borrow.

    An embedding of its own is its head too, unless it has a head; as in libllama.
    """
    theirs = {name: header for header in verifier for name in header.tensors}
    weights = dict(own)
    if HEAD not in own and EMBEDDING in own:
        weights[HEAD] = own[EMBEDDING]
    for name in (EMBEDDING, HEAD):
        if name in weights:
            continue
        stored = name if name in theirs else EMBEDDING
        if stored not in theirs:
            raise CannotCheck(f"{verifier[0].path} has no tensor {EMBEDDING}: name all its parts")
        weights[name] = gguf_weight(theirs[stored], stored)
    return weights

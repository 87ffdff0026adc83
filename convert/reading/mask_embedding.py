"""MiMo's way: the mask token's row is trained and lies in a file of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from .safetensors_file import Float32Array
from .source import Source
from .torch_file import read_torch_file

FILE_NAME = "mask_embedding.pt"


def read_mask_embedding(
    source: Source, mask_token_id: int, n_embd: int, problems: list[str]
) -> tuple[float, ...] | None:
    """The row, or None where the checkpoint has no such file."""
    path = source.folder / FILE_NAME
    if not path.is_file():
        return None
    stored = read_torch_file(path)
    entry = stored if isinstance(stored, dict) else {"embedding": stored}
    token, row = entry.get("mask_token_id", mask_token_id), entry.get("embedding")
    if not isinstance(token, int) or token != mask_token_id:
        found = token if isinstance(token, int) else type(token).__name__
        problems.append(f"{FILE_NAME} is for token {found}, the config has {mask_token_id}")
    if not isinstance(row, np.ndarray) or row.size != n_embd:
        found = row.shape if isinstance(row, np.ndarray) else type(row).__name__
        problems.append(f"{FILE_NAME}: found {found}, expected a vector of {n_embd} numbers")
        return None
    return tuple(row.reshape(-1).tolist())


def with_mask_row(
    pieces: Iterable[Float32Array], mask_token_id: int, row: tuple[float, ...]
) -> Iterator[Float32Array]:
    """The rows of an embedding, one of them replaced."""
    first = 0
    for piece in pieces:
        if first <= mask_token_id < first + len(piece):
            piece = piece.copy()
            piece[mask_token_id - first] = row
        first += len(piece)
        yield piece

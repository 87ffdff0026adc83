"""Reading safetensors files with numpy alone: BF16 included, no torch, a piece at a time."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from dflash_local.errors import ModelError

from .json_file import MAX_BYTES, parse_object

Array = npt.NDArray[np.generic]
Float32Array = npt.NDArray[np.float32]

_PIECE = 1 << 21  # numbers that are in memory at once

# Bytes an element; only the types of `FLOAT_TYPES` can be read as weights.
ELEMENT_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "F64": 8,
    "I64": 8,
    "U64": 8,
}
FLOAT_TYPES = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies in a safetensors file.

    Attributes:
        shape: as torch has it, rows first.
        offset: of the first byte, from the start of the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    n_bytes: int

    def read(self) -> Float32Array:
        """The values as F32, exactly (F64 rounds)."""
        return np.concatenate(list(self.pieces()))

    def pieces(self, together: int = 1) -> Iterator[Float32Array]:
        """The values as F32, some rows at a time: no more than these are in memory.

        Args:
            together: rows that must not be parted; each piece has a multiple of them.

        Raises:
            ModelError: the file has been cut off since its header was read.
        """
        row = self.shape[1:]
        n_rows = max(1, _PIECE // max(1, together * math.prod(row))) * together
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for first in range(0, self.shape[0], n_rows):
                shape = (min(n_rows, self.shape[0] - first), *row)
                yield self._as_f32(self._next(file, math.prod(shape))).reshape(shape)

    def _next(self, file: BinaryIO, count: int) -> Array:
        values = np.fromfile(file, FLOAT_TYPES[self.dtype], count)
        if len(values) < count:
            raise ModelError(f"{self.path}: the file ends within tensor {self.name!r}")
        return values

    def _as_f32(self, values: Array) -> Float32Array:
        if self.dtype == "BF16":
            bits = values.astype(np.uint32)
            bits <<= 16
            return bits.view(np.float32)
        return np.asarray(values, np.float32)


def read_header(path: Path) -> dict[str, StoredTensor]:
    """List the tensors of a safetensors file, everything in its header checked.

    Raises:
        ModelError: the file is truncated, damaged or no safetensors file.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length > size - 8:
                raise ModelError(_not_safetensors(path, start))
            header = parse_object(file.read(min(length, MAX_BYTES + 1)))
    except ModelError:
        raise
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: damaged safetensors header ({error})") from None
    header.pop("__metadata__", None)
    data_start = 8 + length
    tensors = {name: _tensor(path, name, entry, data_start, size) for name, entry in header.items()}
    _check_coverage(path, tensors, data_start, size)
    return tensors


def _not_safetensors(path: Path, start: bytes) -> str:
    if start.startswith(b"version"):
        return f"{path} is a Git LFS pointer, not the weights: fetch them with `git lfs pull`"
    if not start:
        return f"{path} is empty, truncated or no safetensors file: download it again"
    return (
        f"{path} is truncated or no safetensors file: its first 8 bytes, {start.hex() or 'none'}, "
        f"announce a header longer than the file. Download it again"
    )


def _tensor(path: Path, name: str, entry: Any, data_start: int, size: int) -> StoredTensor:
    fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
    dtype: Any = fields.get("dtype")
    shape: Any = fields.get("shape")
    span: Any = fields.get("data_offsets")
    good = _naturals(shape) and _naturals(span) and len(span) == 2
    if not (good and isinstance(dtype, str) and dtype in ELEMENT_BYTES):
        raise ModelError(f"{path}: tensor {name!r} has a damaged entry {str(entry)[:120]}")
    begin, end = span
    n_bytes = math.prod(shape) * ELEMENT_BYTES[dtype]
    if end - begin != n_bytes or data_start + end > size:
        raise ModelError(
            f"{path}: tensor {name!r} ({dtype}, shape {shape}) needs {n_bytes} bytes, but its "
            f"entry covers {begin}..{end} of {size - data_start} stored: truncated or damaged file"
        )
    return StoredTensor(name, dtype, tuple(shape), path, data_start + begin, n_bytes)


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_coverage(
    path: Path, tensors: dict[str, StoredTensor], data_start: int, size: int
) -> None:
    position = data_start
    for tensor in sorted(tensors.values(), key=lambda item: (item.offset, item.n_bytes)):
        if tensor.offset != position:
            raise ModelError(f"{path}: tensor {tensor.name!r} overlaps another or leaves a gap")
        position += tensor.n_bytes
    if position != size:
        raise ModelError(f"{path}: {size - position} bytes after the last tensor: damaged file")

"""The weights of a GGUF file: mapped, not read, and handed out some rows at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from dflash_local.errors import ModelError
from dflash_local.files.gguf_header import GGUFHeader, TensorInfo

from .safetensors_file import Array, Float32Array

PIECE_BYTES = 1 << 20
_NUMPY_TYPES = {
    GGMLQuantizationType.I8: "<i1",
    GGMLQuantizationType.I16: "<i2",
    GGMLQuantizationType.I32: "<i4",
    GGMLQuantizationType.I64: "<i8",
    GGMLQuantizationType.F64: "<f8",
}


def tensor_type(tensor: TensorInfo) -> GGMLQuantizationType | None:
    """The type of a tensor; None where upstream knows no such number (types of forks)."""
    try:
        return GGMLQuantizationType(tensor.type)
    except ValueError:
        return None


def type_name(tensor: TensorInfo) -> str:
    """What to call the type of a tensor."""
    kind = tensor_type(tensor)
    return f"type {tensor.type}" if kind is None else kind.name


def stored_rows(header: GGUFHeader, name: str) -> Array:
    """A tensor as it is stored: bytes, [rows, bytes of a row], mapped from the file.

    Raises:
        ModelError: its type is not known, its rows are no whole blocks, or the file is cut off.
    """
    tensor = header.tensors[name]
    kind = tensor_type(tensor)
    if kind is None:
        raise ModelError(f"{header.path}: tensor {name} has type {tensor.type}, a fork's own")
    block, block_bytes = GGML_QUANT_SIZES[kind]
    n_row = tensor.shape[0] if tensor.shape else 1
    n_rows = math.prod(tensor.shape[1:])
    if n_row * n_rows == 0 or n_row % block:
        raise ModelError(
            f"{header.path}: tensor {name} has {n_rows} rows of {n_row} values, expected rows of a "
            f"multiple of {block} in {kind.name}"
        )
    row_bytes = n_row // block * block_bytes
    if tensor.offset + n_rows * row_bytes > header.path.stat().st_size:
        raise ModelError(f"{header.path}: the file ends within tensor {name}: download it again")
    return np.memmap(header.path, np.uint8, "r", tensor.offset, (n_rows, row_bytes))


def row_pieces(rows: Array) -> Iterator[Array]:
    """Stored rows, some at a time."""
    step = max(1, PIECE_BYTES // rows.shape[1])
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def dequantized(rows: Array, kind: GGMLQuantizationType) -> Float32Array | Array | None:
    """The numbers in stored rows: F32, or integers as they are; None where nobody can tell."""
    if kind in _NUMPY_TYPES:
        return np.ascontiguousarray(rows).view(_NUMPY_TYPES[kind])
    try:
        with np.errstate(all="ignore"):
            return np.asarray(quants.dequantize(rows, kind), np.float32)
    except NotImplementedError:
        return None

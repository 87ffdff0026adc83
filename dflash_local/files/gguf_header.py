"""The header of a GGUF file: keys and tensor descriptions, no weights."""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES

from dflash_local.errors import ModelError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_U32, _STRING, _ARRAY = 4, 8, 9
# numpy's names of GGUF's value types.
_SCALARS = dict(enumerate(("<u1", "<i1", "<u2", "<i2", "<u4", "<i4", "<f4", "?")))
_SCALARS |= {10: "<u8", 11: "<i8", 12: "<f8"}
_I64 = 27  # ggml's number of the type
_MAX_DIMS = 4
_BLOCKS = {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()}
# Far above what models have; a hostile file shall not take memory by the gigabyte.
_MAX_ENTRIES = 1 << 17
_MAX_ITEMS = 1 << 22


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as the header describes it: shape in GGUF order, ggml's type number, file offset."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int

    @property
    def n_bytes(self) -> int | None:
        """Bytes of its data; None for a type that is newer than the package ``gguf``."""
        if self.type not in _BLOCKS:
            return None
        items, size = _BLOCKS[self.type]
        return int(math.prod(self.shape) // items * size)


def architecture_of(path: str | os.PathLike[str]) -> str | None:
    """``general.architecture`` of a GGUF file; None where it has none.

    No more is read than that takes: it is usually the first key.

    Raises:
        ModelError: the file is missing, or begins like no GGUF file.
    """
    data = _map(Path(path))
    try:
        cursor = _Cursor(data)
        for _ in range(_counts(cursor)[1]):
            name, value = cursor.name(), _value(cursor)
            if name == "general.architecture":
                text = _strings(data[value.start : value.end])[0] if value.item == _STRING else b""
                return text.decode("utf-8", "replace") or None
    except (ValueError, IndexError, struct.error) as error:
        raise ModelError(f"{path}: damaged, truncated or no GGUF file ({error})") from None
    return None


class GGUFHeader:
    """Keys and tensor descriptions of a GGUF file.

    Attributes:
        path: the file.
        tensors: by name.

    Raises:
        ModelError: the file is missing, damaged, truncated, big-endian or no GGUF.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._data = _map(self.path)
        try:
            self._values, self.tensors = _parse(self._data)
        except (ValueError, struct.error) as error:
            reason = "it ends too early" if isinstance(error, struct.error) else error
            raise ModelError(f"{path}: damaged, truncated or no GGUF file ({reason})") from None

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        """All keys, in the order of the file."""
        return iter(self._values)

    def get(self, key: str, default: Any = None) -> Any:
        """A key's value: int, float, bool, str, or a list of those; lists of strings hold bytes."""
        value = self._values.get(key)
        if value is None:
            return default
        if value.item == _STRING:
            strings = _strings(self._data[value.start : value.end])
            return strings if value.is_array else strings[0].decode("utf-8", "replace")
        items = np.frombuffer(self._data, _SCALARS[value.item], value.count, value.start).tolist()
        return items if value.is_array else items[0]

    def length(self, key: str) -> int:
        """Elements of a key that holds an array; 0 where it holds anything else."""
        value = self._values[key]
        return value.count if value.is_array else 0

    def raw(self, key: str) -> bytes:
        """A key's value as stored: its type, then its bytes."""
        value = self._values[key]
        return self._data[value.begin : value.end]

    def i64(self, name: str) -> Any:
        """The data of a tensor of type I64; None where it is of another type."""
        tensor = self.tensors[name]
        if tensor.type != _I64:
            return None
        return np.frombuffer(self._data, "<i8", math.prod(tensor.shape), tensor.offset)


@dataclass(frozen=True)
class _Value:
    """Where a key's value lies: its type from ``begin``, its first item at ``start``."""

    is_array: bool
    item: int
    count: int
    begin: int
    start: int
    end: int


class _Cursor:
    """Reads a mapped file from its beginning; what lies beyond its end is an error."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.position = 0

    def number(self, code: str) -> int:
        (value,) = struct.unpack_from("<" + code, self.data, self.position)
        self.position += struct.calcsize("<" + code)
        return int(value)

    def skip(self, n_bytes: int) -> None:
        if n_bytes > len(self.data) - self.position:
            raise ValueError(f"{n_bytes} bytes are announced, {len(self.data)} is the whole file")
        self.position += n_bytes

    def name(self) -> str:
        length = self.number("Q")
        self.skip(length)
        return self.data[self.position - length : self.position].decode("utf-8")


def _map(path: Path) -> mmap.mmap:
    try:
        if path.is_file():
            with path.open("rb") as file:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: empty, no GGUF file, or cannot be read ({error})") from None
    raise ModelError(f"{path} does not exist or is no file; expected a GGUF file")


def _parse(data: mmap.mmap) -> tuple[dict[str, _Value], dict[str, TensorInfo]]:
    cursor = _Cursor(data)
    n_tensors, n_keys = _counts(cursor)
    values: dict[str, _Value] = {}
    for _ in range(n_keys):
        name = _new_name(cursor, values, "key")
        values[name] = _value(cursor)
    tensors: dict[str, TensorInfo] = {}
    for _ in range(n_tensors):
        name = _new_name(cursor, tensors, "tensor")
        tensors[name] = _tensor(cursor, name)
    alignment = _alignment(data, values.get("general.alignment"))
    start = -(-cursor.position // alignment) * alignment
    placed = {name: replace(t, offset=start + t.offset) for name, t in tensors.items()}
    _check_data(placed.values(), start, alignment, len(data))
    return values, placed


def _counts(cursor: _Cursor) -> tuple[int, int]:
    if (magic := cursor.data[:4]) != _MAGIC:
        raise ValueError(f"it begins with {magic!r}, expected {_MAGIC!r}")
    cursor.skip(4)
    version = cursor.number("I")
    if version & 0xFFFF == 0:
        raise ValueError("a big-endian GGUF, expected a little-endian one")
    if version not in _VERSIONS:
        raise ValueError(f"version {version} of the format, expected 2 or 3")
    counts = cursor.number("Q"), cursor.number("Q")
    if max(counts) > _MAX_ENTRIES:
        raise ValueError(f"{counts[0]} tensors and {counts[1]} keys are announced")
    return counts


def _new_name(cursor: _Cursor, seen: Collection[str], what: str) -> str:
    name = cursor.name()
    if not name or name in seen:
        raise ValueError(f"{what} {name!r} is there twice" if name else f"a {what} has no name")
    return name


def _value(cursor: _Cursor) -> _Value:
    begin, item, count = cursor.position, cursor.number("I"), 1
    is_array = item == _ARRAY
    if is_array:
        item, count = cursor.number("I"), cursor.number("Q")
    if count > _MAX_ITEMS:
        raise ValueError(f"an array of {count} items")
    start = cursor.position
    if item == _STRING:
        for _ in range(count):
            cursor.skip(cursor.number("Q"))
    elif item in _SCALARS:
        cursor.skip(count * np.dtype(_SCALARS[item]).itemsize)
    else:
        raise ValueError(f"a value of the unknown type {item}")
    return _Value(is_array, item, count, begin, start, cursor.position)


def _tensor(cursor: _Cursor, name: str) -> TensorInfo:
    n_dims = cursor.number("I")
    if n_dims > _MAX_DIMS:
        raise ValueError(f"tensor {name!r} of {n_dims} dimensions, expected at most {_MAX_DIMS}")
    shape = tuple(cursor.number("Q") for _ in range(n_dims))
    return TensorInfo(name, shape, cursor.number("I"), cursor.number("Q"))


def _alignment(data: mmap.mmap, value: _Value | None) -> int:
    if value is None:
        return 32
    (alignment,) = struct.unpack_from("<I", data, value.start)
    if value.is_array or value.item != _U32 or not alignment or alignment & (alignment - 1):
        raise ValueError("general.alignment, expected a power of two")
    return int(alignment)


def _check_data(tensors: Iterable[TensorInfo], start: int, alignment: int, size: int) -> None:
    position = start
    for tensor in tensors:
        if tensor.offset != position:
            raise ValueError(f"tensor {tensor.name!r} overlaps another or leaves a gap")
        if tensor.n_bytes is None:
            return  # where the next one lies, only a newer library knows
        if position + tensor.n_bytes > size:
            raise ValueError(
                f"tensor {tensor.name!r} ends at byte {position + tensor.n_bytes} of {size}"
            )
        position += -(-tensor.n_bytes // alignment) * alignment


def _strings(block: bytes) -> list[bytes]:
    strings, position = [], 0
    while position < len(block):
        (length,) = struct.unpack_from("<Q", block, position)
        position += 8 + length
        strings.append(block[position - length : position])
    return strings

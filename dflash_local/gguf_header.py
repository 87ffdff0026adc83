"""The header of a GGUF file: keys and tensor descriptions, no weights."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFEndian, GGUFReader, GGUFValueType

from .errors import ModelError

_I64 = 27  # ggml's number of the type


class _Reader(GGUFReader):  # type: ignore[misc]
    """``gguf``'s reader, taking arrays as one block and looking at no weights.

    The original makes two numpy objects an element: seconds for a vocabulary. It also refuses
    tensor types newer than itself, which do not matter here.
    """

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
        if raw_type != GGUFValueType.ARRAY or self.byte_order != "I":
            return super()._get_field_parts(orig_offs, raw_type)
        item, count = struct.unpack_from("<IQ", self.data, orig_offs)
        start = orig_offs + 12
        end = self._array_end(GGUFValueType(item), count, start)
        # As from the original, the sizes of the blocks add up to that of the field in the file.
        blocks = [self.data[orig_offs : start - 8], np.array([count]), self.data[start:end]]
        return end - orig_offs, blocks, [2], [GGUFValueType.ARRAY, GGUFValueType(item)]

    def _array_end(self, item: GGUFValueType, count: int, position: int) -> int:
        scalar = self.gguf_scalar_to_np.get(item)
        if scalar is not None:
            position += count * np.dtype(scalar).itemsize
        elif item == GGUFValueType.STRING:
            for _ in range(count):
                position += 8 + struct.unpack_from("<Q", self.data, position)[0]
        else:
            raise ValueError(f"arrays of {item} are not known")
        if position > len(self.data):
            raise ValueError("an array is longer than the file")
        return position

    def _build_tensors(self, start_offs: int, fields: list[Any]) -> None:
        self.tensors = [
            TensorInfo(
                name=field.name,
                shape=tuple(int(n) for n in field.parts[3]),
                type=int(field.parts[4][0]),
                offset=start_offs + int(field.parts[5][0]),
            )
            for field in fields
        ]


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as the header describes it: shape in GGUF order, ggml's type number, file offset."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int


class GGUFHeader:
    """Keys and tensor descriptions of a GGUF file.

    Attributes:
        path: the file.
        tensors: by name.

    Raises:
        ModelError: the file is missing, damaged, big-endian or no GGUF.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._reader = _open(self.path)
        self.tensors = {tensor.name: tensor for tensor in self._reader.tensors}

    def __contains__(self, key: str) -> bool:
        return key in self._reader.fields

    def __iter__(self) -> Iterator[str]:
        """All keys, in the order of the file."""
        return (key for key in self._reader.fields if not key.startswith("GGUF."))

    def get(self, key: str, default: Any = None) -> Any:
        """A key's value: int, float, bool, str, or a list of those; lists of strings hold bytes."""
        field = self._reader.fields.get(key)
        if field is None:
            return default
        if field.types[0] != GGUFValueType.ARRAY:
            return _scalar(field)
        block = field.parts[field.data[0]]
        if field.types[1] == GGUFValueType.STRING:
            return _strings(block.tobytes())
        return block.view(self._reader.gguf_scalar_to_np[field.types[1]]).tolist()

    def length(self, key: str) -> int:
        """Elements of a key that holds an array."""
        field = self._reader.fields[key]
        return int(field.parts[field.data[0] - 1][0])

    def raw(self, key: str) -> bytes:
        """A key's value as stored: its type, then its bytes."""
        field = self._reader.fields[key]
        sizes = [part.nbytes for part in field.parts]
        start = field.offset + sizes[0] + sizes[1]  # behind the key
        return bytes(self._reader.data[start : field.offset + sum(sizes)])

    def i64(self, name: str) -> Any:
        """The data of a tensor of type I64; None where it is of another type or cut off."""
        tensor = self.tensors[name]
        end = tensor.offset + 8 * int(np.prod(tensor.shape))
        if tensor.type != _I64 or end > len(self._reader.data):
            return None
        return np.frombuffer(self._reader.data[tensor.offset : end].tobytes(), "<i8")


def _open(path: Path) -> Any:
    if not path.is_file():
        raise ModelError(f"{path} does not exist; expected a GGUF file")
    try:
        reader = _Reader(path)
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError, struct.error) as error:
        raise ModelError(f"{path}: damaged, truncated or no GGUF file ({error})") from None
    if reader.endianess != GGUFEndian.LITTLE:
        raise ModelError(f"{path}: a big-endian GGUF; expected a little-endian one")
    return reader


def _scalar(field: Any) -> Any:
    if field.types[0] == GGUFValueType.STRING:
        return bytes(field.parts[-1]).decode("utf-8", "replace")
    return field.parts[-1][0].item()


def _strings(block: bytes) -> list[bytes]:
    strings, position = [], 0
    while position < len(block):
        (length,) = struct.unpack_from("<Q", block, position)
        position += 8 + length
        strings.append(block[position - length : position])
    return strings

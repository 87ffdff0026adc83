"""Reads the header of a GGUF file: keys and tensor descriptions, no tensor data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from .errors import ModelError


class _Reader(gguf.GGUFReader):  # type: ignore[misc]
    """``gguf``'s reader, with arrays read at once.

    The original makes two numpy objects an element, which takes seconds for a vocabulary.
    """

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, Any, Any, Any]:
        if gguf.GGUFValueType(raw_type) != gguf.GGUFValueType.ARRAY:
            parts: tuple[int, Any, Any, Any] = super()._get_field_parts(orig_offs, raw_type)
            return parts
        item_type = gguf.GGUFValueType(int(self._get(orig_offs, np.uint32)[0]))
        count = int(self._get(orig_offs + 4, np.uint64)[0])
        start = orig_offs + 12
        types = [gguf.GGUFValueType.ARRAY, item_type]
        if item_type == gguf.GGUFValueType.STRING:
            strings, end = self._strings(start, count)
            return end - orig_offs, [strings], [0], types
        dtype = self.gguf_scalar_to_np[item_type]
        values = self._get(start, dtype, count)
        if len(values) != count:
            raise ValueError(f"an array of {count} values runs past the end of the file")
        return 12 + int(values.nbytes), [values], [0], types

    def _strings(self, offset: int, count: int) -> tuple[list[bytes], int]:
        view = memoryview(self.data)
        strings = []
        for _ in range(count):
            length = int.from_bytes(view[offset : offset + 8], "little")
            text = bytes(view[offset + 8 : offset + 8 + length])
            if len(text) != length or offset + 8 > len(view):
                raise ValueError(f"a list of {count} strings runs past the end of the file")
            strings.append(text)
            offset += 8 + length
        return strings, offset


class GGUFHeader:
    """Keys and tensor descriptions of a GGUF file.

    Attributes:
        path: the file.
        tensors: name -> (shape in GGUF order, type).

    Raises:
        ModelError: the file is missing, truncated or no GGUF.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ModelError(f"{self.path}: no such file")
        try:
            reader = _Reader(self.path)
            self._values = {key: _value(field) for key, field in reader.fields.items()}
        except (ValueError, KeyError, IndexError, TypeError, OverflowError, MemoryError) as error:
            raise ModelError(f"{self.path}: not a readable GGUF file ({error})") from error
        self.tensors = {
            t.name: (tuple(int(n) for n in t.shape), t.tensor_type) for t in reader.tensors
        }
        self._data = {t.name: t.data for t in reader.tensors}

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key: int, float, bool, str, list, or ``default`` where it is missing."""
        return self._values.get(key, default)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def keys(self) -> list[str]:
        """All keys, in the order of the file."""
        return list(self._values)

    def tensor_data(self, name: str) -> Any:
        """A tensor's data, memory-mapped."""
        return self._data[name]


def _value(field: Any) -> Any:
    if field.types[0] != gguf.GGUFValueType.ARRAY:
        return field.contents()
    values = field.parts[field.data[0]]
    return values if isinstance(values, list) else values.tolist()

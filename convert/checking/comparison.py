"""Two GGUF files side by side, key by key and tensor by tensor: ``compare()``."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType

from dflash_local.errors import ModelError
from dflash_local.files.gguf_header import GGUFHeader, TensorInfo

from ..reading.gguf_tensors import dequantized, row_pieces, stored_rows, tensor_type, type_name
from ..reading.paths import expanded
from ..reading.safetensors_file import Array

_LONGEST = 16  # items of a list, or five times as many letters, that are worth showing


@dataclass(frozen=True)
class KeyDifference:
    """A key that differs: its values, long ones as a digest; None where the file lacks it."""

    name: str
    a: Any
    b: Any


@dataclass(frozen=True)
class TensorDifference:
    """A tensor that differs, or that one file lacks.

    Attributes:
        a, b: type and shape (torch's order), as "BF16 [49152, 576]"; None where the file lacks it.
        max_abs: the largest difference of two values; None where they cannot be compared.
        relative: the root mean square of the differences over that of A's values.
    """

    name: str
    a: str | None
    b: str | None
    max_abs: float | None = None
    relative: float | None = None


@dataclass(frozen=True)
class Comparison:
    """What differs between two GGUF files.

    Attributes:
        n_keys, n_tensors: how many names the two have together.
    """

    a: Path
    b: Path
    n_keys: int
    n_tensors: int
    keys: tuple[KeyDifference, ...]
    tensors: tuple[TensorDifference, ...]

    @property
    def same(self) -> bool:
        """Whether they hold the same keys and tensors, in whatever order."""
        return not self.keys and not self.tensors


def compare(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> Comparison:
    """Compare two GGUF files of any architecture; weights after dequantising.

    A few megabytes of a tensor are in memory at once.

    Raises:
        ModelError: one is missing, damaged or no GGUF.
    """
    first, second = _header(a), _header(b)
    keys = list(dict.fromkeys([*first, *second]))
    tensors = list(dict.fromkeys([*first.tensors, *second.tensors]))
    return Comparison(
        a=first.path,
        b=second.path,
        n_keys=len(keys),
        n_tensors=len(tensors),
        keys=tuple(_key_differences(first, second, keys)),
        tensors=tuple(_tensor_differences(first, second, tensors)),
    )


def _header(path: str | os.PathLike[str]) -> GGUFHeader:
    path = expanded(path)
    if path.is_dir() or path.suffix in (".safetensors", ".json"):
        raise ModelError(
            f"{path}: only GGUF files are compared; convert the checkpoint first, or use "
            "dflash-convert check --source"
        )
    return GGUFHeader(path)


def _key_differences(a: GGUFHeader, b: GGUFHeader, names: list[str]) -> Iterable[KeyDifference]:
    for name in names:
        if name not in a or name not in b or a.raw(name) != b.raw(name):
            yield KeyDifference(name, _shown(a, name), _shown(b, name))


def _shown(header: GGUFHeader, name: str) -> Any:
    value = header.get(name)
    if isinstance(value, str) and len(value) > 5 * _LONGEST:
        return f"{len(value)} letters, {_digest(header, name)}"
    if isinstance(value, list) and len(value) > _LONGEST:
        return f"{len(value)} items, {_digest(header, name)}"
    if isinstance(value, list):
        return [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in value]
    return value


def _digest(header: GGUFHeader, name: str) -> str:
    return "sha256 " + hashlib.sha256(header.raw(name)).hexdigest()[:12]


def _tensor_differences(
    a: GGUFHeader, b: GGUFHeader, names: list[str]
) -> Iterable[TensorDifference]:
    for name in names:
        first, second = a.tensors.get(name), b.tensors.get(name)
        if first is None or second is None or first.shape != second.shape:
            yield TensorDifference(name, _described(first), _described(second))
        elif (difference := _value_difference(a, b, first, second)) is not None:
            yield difference


def _described(tensor: TensorInfo | None) -> str | None:
    return None if tensor is None else f"{type_name(tensor)} {list(tensor.shape[::-1])}"


def _value_difference(
    a: GGUFHeader, b: GGUFHeader, first: TensorInfo, second: TensorInfo
) -> TensorDifference | None:
    kinds = tensor_type(first), tensor_type(second)
    described = TensorDifference(first.name, _described(first), _described(second))
    if kinds[0] is None or kinds[1] is None:
        return described  # a fork's type: neither its size nor its values are known
    rows = stored_rows(a, first.name), stored_rows(b, second.name)
    if kinds[0] == kinds[1] and _same_bytes(*rows):
        return None
    errors = _Errors()
    if not all(errors.add(*pieces) for pieces in _numbers(rows, (kinds[0], kinds[1]))):
        return described
    return TensorDifference(first.name, described.a, described.b, errors.largest, errors.relative)


def _same_bytes(a: Array, b: Array) -> bool:
    pieces = zip(row_pieces(a), row_pieces(b), strict=True)
    return all(np.array_equal(one, other) for one, other in pieces)


def _numbers(
    rows: tuple[Array, Array], kinds: tuple[GGMLQuantizationType, GGMLQuantizationType]
) -> Iterable[tuple[Array | None, Array | None]]:
    # In step: rows of the two have as many values, but not as many bytes.
    step = max(1, min(len(next(row_pieces(part))) for part in rows))
    for start in range(0, len(rows[0]), step):
        one, other = (part[start : start + step] for part in rows)
        yield dequantized(one, kinds[0]), dequantized(other, kinds[1])


class _Errors:
    """The largest and the mean error of pieces of a tensor."""

    def __init__(self) -> None:
        self.largest = 0.0
        self._squares = [0.0, 0.0]  # of differences, of A's values

    def add(self, a: Array | None, b: Array | None) -> bool:
        """Count a piece; False where the values are not known."""
        if a is None or b is None:
            return False
        with np.errstate(all="ignore"):  # NaN and infinity are differences like any other
            values = np.asarray(a, np.float64)
            errors = np.abs(values - np.asarray(b, np.float64))
            errors[np.isnan(errors)] = math.inf
            self.largest = max(self.largest, float(errors.max()))
            self._squares[0] += float(np.square(errors).sum())
            self._squares[1] += float(np.square(values).sum())
        return True

    @property
    def relative(self) -> float:
        errors, values = self._squares
        if errors == 0:
            return 0.0
        return math.sqrt(errors / values) if 0 < values < math.inf else math.inf

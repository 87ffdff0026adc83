"""Writing a GGUF file, one tensor at a time, complete or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter

from dflash_local import private_names
from dflash_local.files.drafter_file import drafter_problems
from dflash_local.files.gguf_header import GGUFHeader
from dflash_local.files.key_table import ARCHITECTURE
from dflash_local.whole_files import whole_file

from ..reading.fields import raise_problems
from ..reading.safetensors_file import Array
from .encode import encode, stored_bytes
from .keys import Key

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class OutputTensor:
    """A tensor to be written.

    Attributes:
        pieces: called when its turn comes; gives whole rows from the first to the last, as F32,
            or as they are to be stored: any other type of number is written as it is.
    """

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    pieces: Callable[[], Iterable[Array]]

    @property
    def n_bytes(self) -> int:
        """Encoded size, without padding."""
        return stored_bytes(self.shape, self.kind)


def write_gguf(
    path: Path,
    keys: list[Key],
    raw_keys: Mapping[str, bytes],
    tensors: list[OutputTensor],
    progress: Progress | None = None,
) -> None:
    """Write a file beside ``path`` under another name, then rename it.

    Args:
        raw_keys: keys whose value is taken as stored in another GGUF: its type, then its bytes.
        progress: called with the encoded bytes done and in all.

    Raises:
        ModelError: a tensor cannot be encoded, or libllama could not run the file. Whatever is
            raised, nothing partial stays behind.
    """
    with whole_file(path) as part:
        with closing(_Writer(None, ARCHITECTURE)) as writer:
            _add(writer, keys, raw_keys, tensors)
            writer.write_header_to_file(part)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            _write_tensors(writer, tensors, progress)
        raise_problems(f"{path}, not written", drafter_problems(GGUFHeader(part)))


@dataclass(frozen=True)
class _Raw:
    data: bytes


private_names.check("gguf", private_names.GGUF)


class _Writer(GGUFWriter):  # type: ignore[misc]
    """A GGUFWriter that also takes values that are encoded already."""

    def _pack_val(self, val: Any, *args: Any, **kwargs: Any) -> Any:
        return val.data if isinstance(val, _Raw) else super()._pack_val(val, *args, **kwargs)

    def write_pieces(self, pieces: Iterable[Array]) -> None:
        """The next tensor, of which no more than a piece is in memory at once."""
        (file,) = self.fout
        info = self.tensors[0].pop(next(iter(self.tensors[0])))
        self.write_padding(file, file.tell())
        n_bytes = sum(file.write(piece.data) for piece in pieces)
        assert n_bytes == info.nbytes
        self.write_padding(file, n_bytes)


def _add(
    writer: _Writer, keys: list[Key], raw_keys: Mapping[str, bytes], tensors: list[OutputTensor]
) -> None:
    for key in keys:
        writer.add_key_value(key.name, key.value, key.type, key.item)
    for name, data in raw_keys.items():
        # The type named here is not written: it is part of the bytes.
        writer.add_key_value(name, _Raw(data), GGUFValueType.STRING)
    for tensor in tensors:
        writer.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), tensor.n_bytes, tensor.kind
        )


def _write_tensors(writer: _Writer, tensors: list[OutputTensor], progress: Progress | None) -> None:
    total, done = sum(tensor.n_bytes for tensor in tensors), 0

    def encoded(tensor: OutputTensor) -> Iterator[Array]:
        nonlocal done
        for piece in tensor.pieces():
            yield (data := _stored(tensor, piece))
            done += data.nbytes
            if progress is not None:
                progress(done, total)

    for tensor in tensors:
        writer.write_pieces(encoded(tensor))


def _stored(tensor: OutputTensor, piece: Array) -> Array:
    if piece.dtype != np.float32:
        return np.ascontiguousarray(piece)
    return encode(tensor.name, np.asarray(piece, np.float32), tensor.kind)

"""Damaging files on purpose: good ones taken apart, changed in one place, put together again."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from conftest import MODELS

from dflash_local.errors import ModelError
from dflash_local.files.drafter_file import read_drafter

#: Drafters of tests/models, one of each kind, and one with a vocabulary of its own.
KINDS = ("dflash-b8", "dflash2-b8", "dspark-b8", "dflash-b8-d2t")
TOKENS = b"tokenizer.ggml.tokens"

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
CODES = dict(enumerate("BbHhIif?")) | {U64: "Q", I64: "q", F64: "d"}


# ---- values of GGUF, as stored -------------------------------------------------------------


def scalar(kind: int, value: float) -> bytes:
    return struct.pack("<I" + CODES[kind], kind, value)


def text(value: bytes) -> bytes:
    return struct.pack("<I", STRING) + _string(value)


def array(kind: int, values: Iterable[Any], count: int | None = None) -> bytes:
    """An array; ``count`` announces another length than it has."""
    items = list(values)
    packed = [
        _string(item) if kind == STRING else struct.pack("<" + CODES[kind], item) for item in items
    ]
    head = struct.pack("<IIQ", ARRAY, kind, len(items) if count is None else count)
    return head + b"".join(packed)


def _string(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


# ---- a GGUF file in pieces -----------------------------------------------------------------


@dataclass(frozen=True)
class Tensor:
    """One tensor; shape in GGUF order; ``offset`` overrides where its data is said to lie."""

    name: bytes
    shape: tuple[int, ...]
    type: int
    data: bytes
    offset: int | None = None


@dataclass
class File:
    """A GGUF file: keys with their values as stored, and tensors."""

    keys: dict[bytes, bytes]
    tensors: dict[bytes, Tensor]
    extra: list[tuple[bytes, bytes]] = field(default_factory=list)
    twins: list[Tensor] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> File:
        reader = gguf.GGUFReader(path)
        keys, tensors = {}, {}
        for name, key in reader.fields.items():
            if not name.startswith("GGUF."):
                keys[name.encode()] = b"".join(part.tobytes() for part in key.parts[2:])
        for item in reader.tensors:
            name = item.name.encode()
            shape = tuple(int(n) for n in item.shape)
            tensors[name] = Tensor(name, shape, int(item.tensor_type), item.data.tobytes())
        return cls(keys, tensors)

    def copy(self) -> File:
        return File(dict(self.keys), dict(self.tensors), list(self.extra), list(self.twins))

    def with_key(self, name: bytes, value: bytes | None) -> File:
        """A copy with a key set, or removed."""
        changed = self.copy()
        changed.keys.pop(name, None) if value is None else changed.keys.update({name: value})
        return changed

    def with_tensor(self, name: bytes, tensor: Tensor | None) -> File:
        """A copy with a tensor set, or removed."""
        changed = self.copy()
        if tensor is None:
            changed.tensors.pop(name, None)
        else:
            changed.tensors[name] = tensor
        return changed

    def to_bytes(self) -> bytes:
        keys = [*self.keys.items(), *self.extra]
        tensors = [*self.tensors.values(), *self.twins]
        head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
        head += b"".join(_string(name) + value for name, value in keys)
        offset, data = 0, b""
        blobs = []
        for item in tensors:
            stated = offset if item.offset is None else item.offset
            head += _string(item.name) + struct.pack("<I", len(item.shape))
            head += struct.pack(f"<{len(item.shape)}Q", *item.shape)
            head += struct.pack("<IQ", item.type, stated)
            blobs.append(item.data + bytes(-len(item.data) % 32))
            offset += len(blobs[-1])
        data = b"".join(blobs)
        return head + bytes(-len(head) % 32) + data


def retyped(tensor: Tensor, kind: int, shape: tuple[int, ...] | None = None) -> Tensor:
    """The tensor in another type or shape, with as many bytes of data as that takes."""
    shape = tensor.shape if shape is None else shape
    items, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
    n_bytes = int(np.prod(shape, dtype=np.int64)) // items * size
    data = (tensor.data * (n_bytes // max(1, len(tensor.data)) + 1))[:n_bytes]
    return replace(tensor, type=kind, shape=shape, data=data)


# ---- what is put where something good was --------------------------------------------------

NAN, INF = float("nan"), float("inf")

#: Values of GGUF of every type, few of which are right anywhere.
VALUES: Mapping[str, bytes] = {
    "0": scalar(U32, 0),
    "1": scalar(U32, 1),
    "2^32-1": scalar(U32, 2**32 - 1),
    "i32 -1": scalar(I32, -1),
    "u64": scalar(U64, 2**64 - 1),
    "u8": scalar(U8, 255),
    "true": scalar(BOOL, True),
    "0.0": scalar(F32, 0),
    "NaN": scalar(F32, NAN),
    "inf": scalar(F32, INF),
    "f64": scalar(F64, 1e300),
    "empty text": text(b""),
    "no UTF-8": text(b"\xff\x00x"),
    "long text": text(b"a" * 100_000),
    "no items": array(I32, []),
    "items": array(I32, [1, 2, 3]),
    "negative": array(I32, [1, -1, 0, 0]),
    "many": array(U32, [1] * 600),
    "no texts": array(STRING, []),
    "texts": array(STRING, [b"", b"\xff"]),
    "flags": array(BOOL, [True] * 2),
    "NaNs": array(F32, [NAN] * 4),
    "array of arrays": array(U32, [0, 0, 0]).replace(struct.pack("<I", U32), b"\x09\0\0\0", 1),
    "more than is there": array(U32, [1], 2**40),
    "2^64-1 items": array(U8, [1], 2**64 - 1),
    "2^61 texts": array(STRING, [b"x"], 2**61),
    "type 13": struct.pack("<II", 13, 0),
}

#: JSON, as text: there are values that Python's own writer does not write.
JSON_VALUES = (
    *("null", "true", "0", "-1", "1.5", "1e-320", "1e400", "NaN", "-Infinity", "2147483648"),
    *("-99999999999999999999999", '""', '"x"', '"a\\u0000b"', '"\\ud800"', '"../x"', "[]", "[0]"),
    *("[-1]", "[true]", "[[1]]", '["\\udfff"]', "[9999999999999999999]", "{}", '{"a":1,"a":2}'),
    *('{"rope_type":[]}', "[" * 2000 + "]" * 2000, '"' + "z" * 5000 + '"'),
)


def json_paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each field of a JSON document is, those inside of others too."""
    if path:
        yield path
    inside = value.items() if isinstance(value, dict) else ()
    for key, item in inside:
        yield from json_paths(item, (*path, key))


def with_json(document: Any, path: tuple[Any, ...], raw: str | None) -> str:
    """A JSON document with a field replaced by raw text, or removed."""
    copy = json.loads(json.dumps(document))
    *outer, last = path
    place = copy
    for key in outer:
        place = place[key]
    if raw is None:
        del place[last]
        return json.dumps(copy)
    place[last] = "@"
    return json.dumps(copy).replace('"@"', raw)


def flips(data: bytes, n_files: int, end: int, seed: int) -> Iterator[bytes]:
    """Copies with a few bytes before ``end`` changed."""
    random = np.random.default_rng(seed)
    for _ in range(n_files):
        damaged = bytearray(data)
        for at in random.integers(0, end, random.integers(1, 4)):
            damaged[at] = random.choice((0, 1, 0x7F, 0x80, 0xFF, damaged[at] ^ (1 << at % 8)))
        yield bytes(damaged)


def write(path: Path, data: bytes) -> None:
    """A new file: one that is written over goes to the disk at once on some file systems."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


# ---- bounds --------------------------------------------------------------------------------


@contextmanager
def bounded(seconds: float = 2.0) -> Iterator[None]:
    """Fails when one case takes long, as the CPU counts it: other work does not."""
    start = time.process_time()
    yield
    assert time.process_time() - start < seconds


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Names, sizes and times of what lies in a folder."""
    stats = {path.name: path.lstat() for path in folder.iterdir()}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def drafter(name: str = "dflash-b8") -> File:
    return File.read(MODELS / f"{name}.gguf")


def is_accepted(path: Path, data: bytes, read: Callable[[Path], object] = read_drafter) -> bool:
    """Whether a reader takes the file; anything but a ModelError that names it is raised."""
    write(path, data)
    refusal = None
    with bounded():
        try:
            read(path)
        except ModelError as error:
            refusal = str(error)
    assert refusal is None or str(path) in refusal
    return refusal is None

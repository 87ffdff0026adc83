"""A single small tensor out of a torch.save file: no torch, and nothing in the file is run."""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dflash_local.errors import ModelError

from .safetensors_file import Float32Array

MAX_PICKLE_BYTES = 1 << 16
MAX_NUMBERS = 1 << 20
# numpy's type of a torch storage; BF16 comes as its bits.
STORAGES = {
    "BFloat16Storage": "<u2",
    "HalfStorage": "<f2",
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
}


def read_torch_file(path: Path) -> Any:
    """The object in a torch.save file; tensors come as F32 arrays.

    Raises:
        ModelError: it is damaged, compressed, very large, or holds anything but numbers, texts,
            containers and tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive)
    except Exception as error:  # hostile pickles have many ways to fail
        raise ModelError(
            f"{path}: damaged, or no file of torch.save with a tensor in it ({error})"
        ) from None


@dataclass(frozen=True)
class _Storage:
    """Numbers of one type in a member of the archive."""

    archive: zipfile.ZipFile
    member: str
    kind: str

    def numbers(self, start: int, count: int) -> Float32Array:
        """Some of them, as F32."""
        dtype = np.dtype(STORAGES[self.kind])
        with self.archive.open(self.member) as file:
            file.seek(start * dtype.itemsize)
            data = file.read(count * dtype.itemsize)
        if len(data) != count * dtype.itemsize:
            raise ValueError("its tensor is longer than its data")
        values = np.frombuffer(data, dtype)
        if dtype == np.uint16:
            values = (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return np.asarray(values, np.float32)


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(io.BytesIO(data))
        self._archive, self._folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return name
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *args: _tensor(*args)  # a pickle can set attributes of what it is given
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not allowed")

    def persistent_load(self, key: Any) -> _Storage:
        what, kind, name, *_ = key
        if what != "storage" or kind not in STORAGES or not isinstance(name, str):
            raise pickle.UnpicklingError("it has a reference that is no storage")
        return _Storage(self._archive, f"{self._folder}data/{name}", kind)


def _read(archive: zipfile.ZipFile) -> Any:
    if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
        raise ValueError("its members are compressed, which torch never does")
    (member,) = [name for name in archive.namelist() if name.endswith("data.pkl")]
    if archive.getinfo(member).file_size > MAX_PICKLE_BYTES:
        raise ValueError(f"more than {MAX_PICKLE_BYTES} bytes describe its tensors")
    folder = member.removesuffix("data.pkl")
    order = f"{folder}byteorder"
    if order in archive.namelist() and archive.read(order).strip() != b"little":
        raise ValueError("it was written on a big-endian machine")
    return _Unpickler(archive.read(member), archive, folder).load()


def _tensor(
    storage: _Storage, start: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> Float32Array:
    count, contiguous = math.prod(shape), 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != contiguous:
            raise ValueError("its tensor is not contiguous")
        contiguous *= size
    if not 0 <= count <= MAX_NUMBERS or start < 0:
        raise ValueError(f"a tensor of {count} numbers, expected at most {MAX_NUMBERS}")
    return storage.numbers(start, count).reshape(shape)

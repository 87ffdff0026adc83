"""Tensors out of torch.save files: what torch writes is read, what is hostile is refused."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dflash_local.convert.reading.torch_file import MAX_PICKLE_BYTES, read_torch_file
from layout_files import torch_bytes

from dflash_local.errors import ModelError

VECTOR = np.arange(64, dtype=np.float32) / 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mask_embedding.pt"


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float32", "float64"])
def test_what_torch_saves_is_read(path: Path, kind: str) -> None:
    torch = pytest.importorskip("torch")
    table = torch.arange(24, dtype=torch.float32).reshape(6, 4).to(getattr(torch, kind))
    torch.save({"mask_token_id": 3, "embedding": table[2]}, path)  # a view of a larger storage
    stored = read_torch_file(path)
    assert stored["mask_token_id"] == 3
    assert stored["embedding"].tolist() == [8.0, 9.0, 10.0, 11.0]
    torch.save(torch.nn.Parameter(table)[1:].detach(), path)
    assert read_torch_file(path).tolist() == table[1:].tolist()
    torch.save(table.T, path)
    with pytest.raises(ModelError, match="not contiguous"):
        read_torch_file(path)


def test_bf16_is_read_without_torch(path: Path) -> None:
    path.write_bytes(torch_bytes(7, VECTOR, "BF16"))
    stored = read_torch_file(path)
    assert stored["mask_token_id"] == 7
    np.testing.assert_array_equal(stored["embedding"], VECTOR)


def _archive(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


class _Call:
    """Pickles to a call of what it is given."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def test_a_pickle_that_asks_for_more_than_tensors_is_not_run(path: Path, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    for call in (_Call(open, str(touched), "w"), _Call(eval, "1"), _Call(getattr, "", "join")):
        _archive(path, {"a/data.pkl": pickle.dumps(call)})
        with pytest.raises(ModelError, match="which is not allowed"):
            read_torch_file(path)
    assert not touched.exists()


def _tensor(start: int, size: int, stride: int = 1, kind: bytes = b"FloatStorage") -> bytes:
    def number(value: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", value)

    storage = (
        b"(X\x07\x00\x00\x00storagectorch\n" + kind + b"\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    )
    storage += number(4) + b"tQ"
    rows = b"(" + number(size) + b"t(" + number(stride) + b"t"
    call = b"(" + storage + number(start) + rows + b"\x89Nt"
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + call + b"R."


def _with_data(pickled: bytes) -> dict[str, bytes]:
    return {"a/data.pkl": pickled, "a/data/0": np.arange(4, dtype="<f4").tobytes()}


def test_the_hand_made_pickle_is_a_right_one(path: Path) -> None:
    _archive(path, _with_data(_tensor(1, 3)))
    assert read_torch_file(path).tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    "members",
    [
        _with_data(_tensor(2, 3)),
        _with_data(_tensor(-1, 3)),
        _with_data(_tensor(0, -3)),
        _with_data(_tensor(0, 2**40)),
        _with_data(_tensor(2**62, 3)),
        _with_data(_tensor(0, 2, stride=2)),
        _with_data(_tensor(0, 3, kind=b"LongStorage")),
        {"a/data.pkl": _tensor(0, 3)},
        {"a/data.pkl": _tensor(0, 3)[:-9]},
        {"a/data.pkl": b"\x80\x02" + b"(" * 9000 + b"."},
        {"a/data.pkl": b"N." + bytes(MAX_PICKLE_BYTES)},
        {**_with_data(_tensor(0, 3)), "a/byteorder": b"big"},
        {**_with_data(_tensor(0, 3)), "b/data.pkl": b"N."},
        {},
    ],
)
def test_damaged_and_hostile_files_are_refused(path: Path, members: dict[str, bytes]) -> None:
    _archive(path, members)
    with pytest.raises(ModelError, match="damaged, or no file of torch"):
        read_torch_file(path)


def test_compressed_and_truncated_archives_are_refused(path: Path) -> None:
    _archive(path, _with_data(_tensor(0, 3)), zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelError, match="compressed"):
        read_torch_file(path)
    whole = torch_bytes(7, VECTOR, "BF16")
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError):
            read_torch_file(path)

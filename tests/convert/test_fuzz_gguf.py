"""Damaged and hostile GGUF files: a ModelError in bounded time and memory, never a dead process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import fuzzing
import pytest
from conftest import MODELS
from dflash_local.convert.verifiers.verifier import read_verifier
from fuzzing import KINDS, U32, File, drafter, is_accepted, scalar

from dflash_local.errors import ModelError
from dflash_local.files.drafter_file import read_drafter
from dflash_local.files.gguf_header import GGUFHeader


def read_everything(path: Path) -> GGUFHeader:
    """A header, with every key read in every way."""
    header = GGUFHeader(path)
    for key in header:
        header.get(key), header.raw(key), header.length(key)
    return header


# ---- bytes ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("read", [read_everything, read_drafter, read_verifier])
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    name = "verifier-nolayerinp" if read is read_verifier else "dflash-b8"
    data = (MODELS / f"{name}.gguf").read_bytes()
    ends = [*range(400), *range(400, len(data), 97), len(data) - 64]
    assert not any(is_accepted(tmp_path / "d.gguf", data[:end], read) for end in ends)


@pytest.mark.slow
@pytest.mark.parametrize("read", [read_everything, read_drafter, read_verifier])
def test_flipped_bytes_of_a_header_are_refused_or_harmless(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    name = "verifier-nolayerinp" if read is read_verifier else "dspark-b8"
    data = (MODELS / f"{name}.gguf").read_bytes()
    damaged = fuzzing.flips(data, 600, 14_000, seed=1)
    accepted = [is_accepted(tmp_path / "d.gguf", item, read) for item in damaged]
    assert 0 < sum(accepted) < len(accepted)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_every_key_takes_no_other_exception_than_a_model_error(tmp_path: Path, name: str) -> None:
    good = drafter(name)
    accepted = 0
    for key in good.keys:
        for value in (None, *fuzzing.VALUES.values()):
            accepted += is_accepted(tmp_path / "d.gguf", good.with_key(key, value).to_bytes())
    assert 0 < accepted < len(good.keys) * len(fuzzing.VALUES) / 3


def test_every_key_of_a_verifier_takes_no_other_exception_than_a_model_error(
    tmp_path: Path,
) -> None:
    good = File.read(MODELS / "verifier-nolayerinp.gguf")
    path = tmp_path / "v.gguf"
    cases = [
        is_accepted(path, good.with_key(key, value).to_bytes(), read_verifier)
        for key in good.keys
        for value in (None, *fuzzing.VALUES.values())
    ]
    assert 0 < sum(cases) < len(cases)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_odd_tensors_are_refused(tmp_path: Path, name: str) -> None:
    good = drafter(name)
    for key, tensor in good.tensors.items():
        for changed in _odd_tensors(tensor):
            data = good.with_tensor(key, changed).to_bytes()
            assert not is_accepted(tmp_path / "d.gguf", data), (key, changed.shape, changed.type)
        twice = good.copy()
        twice.twins.append(tensor)
        assert not is_accepted(tmp_path / "d.gguf", twice.to_bytes()), key


def _odd_tensors(tensor: fuzzing.Tensor) -> Iterator[fuzzing.Tensor]:
    for shape in ((2**63,), (2**32, 2**32), (2**62, 4), (2**64 - 1,) * 4, (0,), (1, 2, 3, 4)):
        yield replace(tensor, shape=shape)
    yield fuzzing.retyped(tensor, tensor.type, (*tensor.shape, 2))
    for kind in (4, 31, 43, 2**31, 2**32 - 1):  # removed, or never there
        yield replace(tensor, type=kind)
    for kind in (24, 25, 26, 28):  # whole numbers, F64
        yield fuzzing.retyped(tensor, kind)
    for offset in (1, 2**20, 2**40, 2**64 - 32):
        yield replace(tensor, offset=offset)
    yield replace(tensor, data=b"")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GGUF\x01\0\0\0" + bytes(16), "version 1"),
        (b"GGUF\0\0\0\x03" + bytes(16), "big-endian"),
        (b"GGUF\x03\0\0\0" + b"\xff" * 16, "are announced"),
        (b"GGUF\x03\0\0\0" + bytes(8) + b"\1" + bytes(7) + b"\xff" * 8, "bytes are announced"),
        (b"GGUF\x03\0\0\0" + bytes(8) + b"\1" + bytes(19), "has no name"),
        (b"GGUF\x03\0\0\0\1", "ends too early"),
    ],
)
def test_what_is_wrong_with_a_header_is_told(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "d.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=message):
        GGUFHeader(path)


def test_a_key_twice_is_refused(tmp_path: Path) -> None:
    good = drafter()
    good.extra.append((b"dflash.block_size", scalar(U32, 4)))
    path = tmp_path / "d.gguf"
    path.write_bytes(good.to_bytes())
    with pytest.raises(ModelError, match=r"dflash\.block_size' is there twice"):
        GGUFHeader(path)


def test_paths_that_are_no_files_are_refused(tmp_path: Path) -> None:
    loop = tmp_path / "loop.gguf"
    loop.symlink_to(loop)
    for path in (tmp_path, loop, tmp_path / ("x" * 5000), tmp_path / "a\0b"):
        for read in (GGUFHeader, read_drafter, read_verifier):
            with pytest.raises(ModelError):
                read(path)


@pytest.mark.parametrize("name", ["v-00001-of-00000.gguf", "v-00003-of-00002.gguf"])
def test_parts_that_cannot_be_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="does not exist"):
        read_verifier(tmp_path / name)

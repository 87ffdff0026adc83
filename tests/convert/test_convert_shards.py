"""Shards and their index: which files are read, and what is said of those that are not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import convert_samples as samples
import numpy as np
import pytest
from dflash_local.convert import ConvertReport, check, convert

from dflash_local.errors import ModelError

TINY = Path(__file__).parents[1] / "models" / "dflash-b8"
INDEX = "model.safetensors.index.json"
A, B = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
Weights = dict[str, np.ndarray]

WEIGHTS = samples.tensors()
NAMES = sorted(WEIGHTS)
FIRST = {name: WEIGHTS[name] for name in NAMES[:9]}
SECOND = {name: WEIGHTS[name] for name in NAMES[9:]}
MAP = {**dict.fromkeys(FIRST, A), **dict.fromkeys(SECOND, B)}
CHANGED = {"fc.weight": WEIGHTS["fc.weight"] + 1}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return samples.verifier(tmp_path / "v.gguf")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a config and no weights yet."""
    path = samples.checkpoint(tmp_path / "d")
    (path / "model.safetensors").unlink()
    return path


def put(folder: Path, weight_map: dict[str, Any] | None = None, **files: Weights) -> Path:
    """Files by the part of their name before `.safetensors`, and an index."""
    for name, weights in files.items():
        stem = {"A": A, "B": B}.get(name, f"{name}.safetensors")
        (folder / stem).write_bytes(samples.safetensors_bytes(weights))
    if weight_map is not None:
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def run(source: Path, target: Path) -> ConvertReport:
    return convert(source, target, target.with_name("out.gguf"), outtype="f32")


def fused(report: ConvertReport) -> np.ndarray:
    """The one tensor that the files of these tests differ in."""
    values: np.ndarray = samples.read(report.output)[1]["fc.weight"].data
    return values


def is_plain(report: ConvertReport) -> bool:
    return bool(np.array_equal(fused(report), WEIGHTS["fc.weight"]))


def refused(source: Path, target: Path) -> str:
    with pytest.raises(ModelError) as caught:
        run(source, target)
    return str(caught.value)


# ---- the index is obeyed ---------------------------------------------------------------------


def test_the_index_says_which_of_two_shards_a_tensor_is_read_from(
    folder: Path, target: Path
) -> None:
    weight_map = {**MAP, "fc.weight": "model-overlay.safetensors"}
    put(folder, weight_map, A=FIRST, B=SECOND, **{"model-overlay": CHANGED})
    report = run(folder, target)
    assert np.array_equal(fused(report), CHANGED["fc.weight"])
    assert report.warnings == ()


def test_entries_without_a_tensor_are_named_with_their_shards(folder: Path, target: Path) -> None:
    absent = "layers.99.nothing.weight"
    put(folder, {**MAP, "fc.weight": B, absent: A}, A=FIRST, B=SECOND)
    text = refused(folder, target)
    assert f"{INDEX}: 2 problems" in text
    assert f"tensor fc.weight: the index says {B}, which lacks it; {A} has it" in text
    assert f"tensor {absent}: the index says {A}, which lacks it" in text


def test_what_the_index_does_not_list_is_not_read_and_said(folder: Path, target: Path) -> None:
    extra = {"unheard.weight": np.ones(3, np.float32)}
    put(folder, MAP, A={**FIRST, **extra}, B=SECOND)
    report = run(folder, target)
    assert is_plain(report)
    (warning,) = report.warnings
    assert "unheard.weight" in warning
    assert INDEX in warning
    assert "not read" in warning


def test_a_needed_tensor_that_the_index_does_not_list_is_missing_and_one_is_told_why(
    folder: Path, target: Path
) -> None:
    unlisted = {name: file for name, file in MAP.items() if name != "fc.weight"}
    put(folder, unlisted, A=FIRST, B=SECOND)
    text = refused(folder, target)
    assert "missing tensor fc.weight" in text
    assert f"not in {INDEX}, and not read: fc.weight" in text


# ---- which files are read --------------------------------------------------------------------


def test_a_file_that_an_older_save_left_is_not_read_and_said(folder: Path, target: Path) -> None:
    put(folder, MAP, model={**WEIGHTS, **CHANGED}, A=FIRST, B=SECOND)
    report = run(folder, target)
    assert is_plain(report)
    (warning,) = report.warnings
    assert "read the 2 files of model.safetensors.index.json" in warning
    assert "not read: model.safetensors" in warning
    named = run(folder / "model.safetensors", target)
    assert np.array_equal(fused(named), CHANGED["fc.weight"])
    assert named.warnings == ()


def test_an_index_whose_shards_are_missing_gives_way_to_a_whole_file_and_is_said(
    folder: Path, target: Path
) -> None:
    put(folder, MAP, model=WEIGHTS)
    report = run(folder, target)
    assert is_plain(report)
    (warning,) = report.warnings
    assert f"{INDEX} names 2 files that are not beside it: {A}, {B}" in warning
    assert "read model.safetensors" in warning
    assert run(folder / "model.safetensors", target).warnings == ()


def test_half_of_the_shards_are_no_checkpoint(folder: Path, target: Path) -> None:
    put(folder, MAP, A=FIRST)
    assert f"{INDEX} names 1 files that are not beside it: {B}" in refused(folder, target)
    assert f"not beside it: {B}" in refused(folder / A, target)


@pytest.mark.parametrize("text", ["{}", '{"weight_map": []}', "{", "version https://git-lfs"])
def test_a_damaged_index_beside_a_whole_file_is_said(folder: Path, target: Path, text: str) -> None:
    put(folder, model=WEIGHTS)
    (folder / INDEX).write_text(text)
    report = run(folder, target)
    (warning,) = report.warnings
    assert INDEX in warning
    assert "read model.safetensors" in warning
    (folder / "model.safetensors").unlink()
    assert INDEX in refused(folder, target)


def test_another_file_beside_the_one_that_is_read_is_said(folder: Path, target: Path) -> None:
    put(folder, model=WEIGHTS, other=CHANGED)
    (warning,) = run(folder, target).warnings
    assert "read model.safetensors" in warning
    assert "not read: other.safetensors" in warning
    put(folder, MAP, A=FIRST, B=SECOND)
    (folder / "model.safetensors").unlink()
    (warning,) = run(folder, target).warnings
    assert "not read: other.safetensors" in warning


def test_an_index_of_the_one_file_there_is_nothing_to_say_of(folder: Path, target: Path) -> None:
    put(folder, dict.fromkeys(WEIGHTS, "model.safetensors"), model=WEIGHTS)
    assert run(folder, target).warnings == ()


def test_a_check_against_the_checkpoint_says_the_same(tmp_path: Path, tiny_verifier: Path) -> None:
    folder = shutil.copytree(TINY, tmp_path / "d")
    drafter = convert(folder, tiny_verifier, tmp_path / "d.gguf").output
    shutil.copy(folder / "model.safetensors", folder / "older.safetensors")
    report = check(drafter, tiny_verifier, source=folder)
    assert report.fits
    assert any("not read: older.safetensors" in warning for warning in report.warnings)


# ---- files that are none ---------------------------------------------------------------------


def test_torch_pickles_are_named_where_there_is_nothing_else(folder: Path, target: Path) -> None:
    (folder / "pytorch_model-00001-of-00001.bin").write_bytes(b"PK")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {}}))
    text = refused(folder, target)
    assert "has no model.safetensors" in text
    assert "pytorch_model-00001-of-00001.bin" in text
    assert "save them with safetensors first" in text
    assert "torch pickles" in refused(folder / "pytorch_model-00001-of-00001.bin", target)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [(POINTER, "is a Git LFS pointer"), (b"", "is empty")],
)
@pytest.mark.parametrize("name", ["config.json", INDEX, B])
def test_pointers_and_empty_files_are_told_by_what_they_are(
    folder: Path, target: Path, name: str, content: bytes, message: str
) -> None:
    put(folder, MAP, A=FIRST, B=SECOND)
    (folder / name).write_bytes(content)
    text = refused(folder, target)
    assert f"{name} {message}" in text


def _utf16(text: str) -> bytes:
    return text.encode("utf-16")


def _with_bom(text: str) -> bytes:
    return text.encode("utf-8-sig")


@pytest.mark.parametrize("encode", [_with_bom, _utf16])
def test_json_that_an_editor_gave_a_byte_order_mark_is_read(
    folder: Path, target: Path, encode: Callable[[str], bytes]
) -> None:
    put(folder, MAP, A=FIRST, B=SECOND)
    for name in ("config.json", INDEX):
        (folder / name).write_bytes(encode((folder / name).read_text()))
    assert is_plain(run(folder, target))


def test_shards_may_be_of_different_types(folder: Path, target: Path) -> None:
    put(folder, MAP, A=FIRST)
    (folder / B).write_bytes(samples.safetensors_bytes(SECOND, "BF16"))
    report = run(folder, target)
    assert is_plain(report)
    written = samples.read(report.output)[1]["output_norm.weight"].data
    rounded = (samples.bf16_bits(WEIGHTS["norm.weight"]).astype(np.uint32) << 16).view(np.float32)
    assert np.array_equal(written, rounded)

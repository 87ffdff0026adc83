"""`dflash-convert compare`: keys and tensors that differ between two GGUF files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import dialect_samples as samples
import numpy as np
import pytest
from dflash_local.convert import cli, compare
from gguf import GGMLQuantizationType, quants


@pytest.fixture
def good(tiny_drafters: dict[str, Path]) -> Path:
    return tiny_drafters["dflash-b8"]


def changed(source: Path, path: Path, name: str, data: np.ndarray, kind: str = "F32") -> Path:
    """A copy with other values in one tensor."""
    keys, tensors = samples.read(source)
    tensors[name] = (data, GGMLQuantizationType[kind])
    return samples.write(path, "dflash", keys, tensors)


def test_a_file_equals_itself_and_a_rewritten_copy(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, tensors = samples.read(good)
    reordered = dict(sorted(tensors.items()))
    copy = samples.write(tmp_path / "copy.gguf", "dflash", keys, reordered)
    assert copy.read_bytes() != good.read_bytes()
    assert compare(good, good).same
    assert compare(good, copy).same
    assert cli.main(["compare", str(good), str(copy)]) == 0
    assert capsys.readouterr().out == "0 of 24 keys and 0 of 14 tensors differ\n"


def test_errors_are_those_of_the_numbers(good: Path, tmp_path: Path) -> None:
    name = "output_norm.weight"
    _, tensors = samples.read(good)
    values = tensors[name][0].astype(np.float32)
    other = values.copy()
    other[3] += 0.5
    (found,) = compare(good, changed(good, tmp_path / "b.gguf", name, other)).tensors
    assert (found.name, found.a, found.b) == (name, "F32 [64]", "F32 [64]")
    assert found.max_abs == pytest.approx(0.5, rel=1e-6)
    assert found.relative == pytest.approx(0.5 / np.linalg.norm(values), rel=1e-5)


@pytest.mark.parametrize("kind", ["BF16", "Q8_0", "Q4_0"])
def test_quantised_weights_are_compared_as_numbers(good: Path, tmp_path: Path, kind: str) -> None:
    name = "blk.0.ffn_down.weight"
    _, tensors = samples.read(good)
    values = tensors[name][0].astype(np.float32)
    stored = quants.quantize(values, GGMLQuantizationType[kind])
    numbers = quants.dequantize(stored, GGMLQuantizationType[kind])
    (found,) = compare(good, changed(good, tmp_path / "b.gguf", name, stored, kind)).tensors
    assert (found.a, found.b) == ("F16 [64, 96]", f"{kind} [64, 96]")
    assert found.max_abs == pytest.approx(np.abs(values - numbers).max(), rel=1e-6)
    expected = np.linalg.norm(values - numbers) / np.linalg.norm(values)
    assert found.relative == pytest.approx(expected, rel=1e-4)


def test_a_wide_tensor_is_compared_in_pieces(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = changed(good, tmp_path / "b.gguf", "output_norm.weight", np.zeros(64, np.float32))
    keys, tensors = samples.read(good)
    name = "blk.0.ffn_up.weight"
    values = tensors[name][0].astype(np.float32)
    values[-1, -1] += 2.0
    tensors[name] = (values, GGMLQuantizationType.F32)
    wide = samples.write(tmp_path / "c.gguf", "dflash", keys, tensors)
    whole = compare(good, other), compare(good, wide)
    monkeypatch.setattr("dflash_local.convert.reading.gguf_tensors.PIECE_BYTES", 300)
    assert (compare(good, other), compare(good, wide)) == whole
    assert whole[1].tensors[0].max_abs == pytest.approx(2.0)
    assert whole[0].tensors[0].relative == pytest.approx(1.0)


def test_what_one_file_lacks_is_listed(tiny_drafters: dict[str, Path]) -> None:
    found = compare(tiny_drafters["dflash-b8"], tiny_drafters["dflash-b8-d2t"])
    assert [(key.name, key.a) for key in found.keys] == [("general.name", "tiny dflash-b8")]
    assert [(t.name, t.a, t.b) for t in found.tensors] == [
        ("output.weight", None, "F16 [112, 64]"),
        ("d2t", None, "I64 [112]"),
    ]


def test_the_same_value_of_another_type_differs(good: Path, tmp_path: Path) -> None:
    keys, tensors = samples.read(good)
    keys["dflash.block_size"] = (8, [samples.I32])
    other = samples.write(tmp_path / "b.gguf", "dflash", keys, tensors)
    (key,) = compare(good, other).keys
    assert (key.name, key.a, key.b) == ("dflash.block_size", 8, 8)


def test_token_ids_are_compared_as_integers(tiny_drafters: dict[str, Path], tmp_path: Path) -> None:
    source = tiny_drafters["dflash-b8-d2t"]
    _, tensors = samples.read(source)
    ids = tensors["d2t"][0].copy()
    ids[7] += 300
    (found,) = compare(source, changed(source, tmp_path / "b.gguf", "d2t", ids, "I64")).tensors
    assert (found.name, found.max_abs) == ("d2t", 300.0)


def test_nan_is_an_infinite_error_and_null_in_json(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = np.full(64, np.nan, np.float32)
    other = changed(good, tmp_path / "b.gguf", "output_norm.weight", broken)
    assert compare(good, other).tensors[0].max_abs == math.inf
    assert cli.main(["compare", str(good), str(other), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["same"] is False
    assert report["tensors"][0]["max_abs"] is None


def test_differences_exit_with_1_and_trouble_with_2(
    good: Path, tiny_drafters: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", str(good), str(tiny_drafters["dspark-b8"])]) == 1
    out = capsys.readouterr().out
    assert ["dflash.sample_from_anchor", "-", "False"] in [
        line.split() for line in out.splitlines()
    ]
    assert out.endswith("3 of 26 keys and 18 of 18 tensors differ\n")
    for other in (tmp_path, tmp_path / "model.safetensors"):
        assert cli.main(["compare", str(good), str(other)]) == 2
        assert "only GGUF files are compared" in capsys.readouterr().err
    assert cli.main(["compare", str(good), str(tmp_path / "none.gguf")]) == 2

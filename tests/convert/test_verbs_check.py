"""`dflash-convert check`: whether a drafter's file fits a verifier and drafts with it."""

from __future__ import annotations

import json
from pathlib import Path

import dialect_samples as samples
import numpy as np
import pytest
from conftest import MODELS
from dflash_local.convert import check, cli
from gguf import GGMLQuantizationType, GGUFValueType
from gguf_contents import Contents

from dflash_local.files.taps import TAPS

CHECKPOINT = MODELS / "dflash-b8"


@pytest.mark.parametrize("name", ["dflash-b8", "dflash-b8-d2t", "dflash2-b8", "dspark-b7-anchor"])
def test_every_kind_drafts_a_block_for_its_verifier(
    name: str, tiny_drafters: dict[str, Path], tiny_verifier: Path
) -> None:
    report = check(tiny_drafters[name], tiny_verifier)
    assert report.fits
    assert report.problems == ()
    assert report.drafted


def test_the_demo_pair_fits(
    smollm2: Path, smollm2_drafter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check", str(smollm2_drafter), "--verifier", str(smollm2)]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("drafted in libllama: ")
    assert captured.out.endswith(f"{smollm2_drafter} fits {smollm2}\n")
    assert captured.err == ""


def test_a_pair_that_does_not_fit_is_told_with_every_reason(
    smollm2_drafter: Path, tiny_verifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["check", str(smollm2_drafter), "--verifier", str(tiny_verifier)]
    assert cli.main(arguments) == 1
    out = capsys.readouterr().out
    for reason in ("hidden size: the drafter has 576", "target layers:", "vocabulary:"):
        assert f"problem: {reason}" in out
    assert f"{smollm2_drafter} does not fit {tiny_verifier}" in out
    assert cli.main([*arguments, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["fits"] is False
    assert len(report["problems"]) == 3
    assert report["drafted"] is None


def test_a_verifier_without_a_tap_is_refused_before_libllama_sees_it(
    tiny_drafters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(TAPS, "gemma3")
    report = check(tiny_drafters["dflash-b8"], MODELS / "verifier-nolayerinp.gguf")
    assert not report.fits
    assert "no drafter can read" in report.problems[0]


def test_unusable_files_are_problems_of_both(tmp_path: Path, tiny_verifier: Path) -> None:
    report = check(tiny_verifier, tmp_path / "none.gguf")
    assert len(report.problems) == 2
    assert "found architecture 'llama', expected a DFlash drafter's" in report.problems[0]
    assert "none.gguf" in report.problems[1]


def test_a_forks_file_is_sent_to_migrate(
    tiny_drafters: dict[str, Path], tiny_verifier: Path, tmp_path: Path
) -> None:
    report = check(samples.buun(tiny_drafters["dflash-b8"], tmp_path / "old.gguf"), tiny_verifier)
    (problem,) = report.problems
    assert "dflash-convert migrate" in problem


def test_weights_that_are_no_numbers_are_found_by_drafting(
    tiny_drafters: dict[str, Path], tiny_verifier: Path, tmp_path: Path
) -> None:
    keys, tensors = samples.read(tiny_drafters["dflash-b8"])
    broken = np.full(64, np.nan, np.float32)
    tensors["output_norm.weight"] = (broken, GGMLQuantizationType.F32)
    report = check(samples.write(tmp_path / "d.gguf", "dflash", keys, tensors), tiny_verifier)
    assert report.problems == ("libllama drafts nothing, or no numbers: the weights are broken",)


def test_missing_rope_sections_are_a_warning(
    tiny_drafters: dict[str, Path], tiny_verifier: Path, tmp_path: Path
) -> None:
    keys, tensors = samples.read(tiny_verifier)
    keys["llama.rope.dimension_sections"] = (
        [8, 0, 0, 0],
        [GGUFValueType.ARRAY, GGUFValueType.INT32],
    )
    verifier = samples.write(tmp_path / "v.gguf", "llama", keys, tensors)
    report = check(tiny_drafters["dflash-b8"], verifier)
    assert report.fits
    assert any("no rope sections" in warning for warning in report.warnings)


def test_a_drafter_is_compared_with_its_checkpoint(
    tiny_drafters: dict[str, Path], tiny_verifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = check(tiny_drafters["dflash-b8"], tiny_verifier, source=CHECKPOINT)
    assert report.fits
    assert report.source is not None
    assert report.source.fits
    arguments = ["check", str(tiny_drafters["dflash-b8"]), "--verifier", str(tiny_verifier)]
    assert cli.main([*arguments, "--source", str(CHECKPOINT)]) == 0
    assert "against the checkpoint: " in capsys.readouterr().out


def test_another_drafters_weights_are_told_from_the_checkpoints(
    tiny_drafters: dict[str, Path], tiny_verifier: Path, tmp_path: Path
) -> None:
    keys, tensors = samples.read(tiny_drafters["dflash-b8"])
    values, kind = tensors["blk.0.ffn_up.weight"]
    tensors["blk.0.ffn_up.weight"] = (np.ascontiguousarray(values[::-1]), kind)
    wrong = samples.write(tmp_path / "wrong.gguf", "dflash", keys, tensors)
    assert check(wrong, tiny_verifier).fits
    report = check(wrong, tiny_verifier, source=CHECKPOINT)
    assert report.source is not None
    assert not report.source.fits
    assert report.problems == report.source.problems


def test_a_checkpoint_that_is_none_is_a_problem(
    tiny_drafters: dict[str, Path], tiny_verifier: Path, tmp_path: Path
) -> None:
    report = check(tiny_drafters["dflash-b8"], tiny_verifier, source=tmp_path)
    assert report.drafted
    assert not report.fits


def renamed(drafter: Path, path: Path, text: str, kind: int) -> Path:
    contents = Contents(drafter)
    contents.keys["tokenizer.ggml.tokens"][2] = text
    contents.keys["tokenizer.ggml.token_type"][2] = kind
    return contents.write(path)


def test_names_of_tokens_that_are_no_text_are_warned_of_and_others_are_problems(
    tiny_drafters: dict[str, Path],
    tiny_verifier: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As `Llama` has it."""
    control = renamed(tiny_drafters["dflash-b8"], tmp_path / "control.gguf", "<end_of_turn>", 3)
    assert cli.main(["check", str(control), "--verifier", str(tiny_verifier)]) == 0
    captured = capsys.readouterr()
    assert "1 of 384 tokens have other names in the drafter" in captured.err
    assert "token 2: '<end_of_turn>' in the drafter, '<|im_end|>' in the verifier" in captured.err
    normal = renamed(tiny_drafters["dflash-b8"], tmp_path / "normal.gguf", "<end_of_turn>", 1)
    report = check(normal, tiny_verifier)
    assert "1 of 384 tokens differ, the first is token 2" in report.problems[0]
    assert report.warnings == ()

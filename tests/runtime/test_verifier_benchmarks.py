"""The benchmarks about verifiers run on the tiny pair, and print their tables."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import MODELS

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows_of(printed: str) -> list[list[str]]:
    """The cells of a table in Markdown, without its head."""
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_taps_are_timed_in_turn(capsys: pytest.CaptureFixture[str]) -> None:
    taps = _load("taps")
    size = [
        "--rows",
        "1",
        "4",
        "--prompt",
        "32",
        "--looks",
        "4",
        "--threads",
        "1",
        "--places",
        "cpu",
    ]
    models = ["--verifier", str(MODELS / "verifier-f32.gguf"), "--layers", "1", "3"]
    assert taps.main(taps.parse([*models, *size])) == 0
    rows = rows_of(capsys.readouterr().out)
    assert [row[1] for row in rows] == ["1 row(s)", "4 row(s)", "prompt of 32"]
    for row in rows:
        assert all(float(cell) > 0 for cell in row[2:5])


def test_engines_answer_at_each_depth(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one is beyond the verifier's own context."""
    monkeypatch.setenv("DFLASH_LOCAL_CACHE", str(tmp_path))
    depth = _load("depth")
    models = ["--verifier", MODELS / "verifier-f32.gguf", "--drafter", MODELS / "dflash-b8.gguf"]
    size = ["--depths", 64, 320, "--questions", 1, "--max-tokens", 8, "--threads", 1]
    options = [*models, *size, "--drafter-ctx", 100]
    assert depth.main(depth.parse([str(each) for each in options])) == 0
    rows = rows_of(capsys.readouterr().out)
    assert [row[0] for row in rows] == ["64", "320"]
    for row in rows:
        assert len(row) == 5
        assert row[1].endswith("(1.00)")
        assert all(float(cell.split()[0]) > 0 for cell in row[1:4])

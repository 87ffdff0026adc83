"""``dflash_local.bench`` from Python, on the tiny pair: a function measures."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from waiting import PATIENCE

from dflash_local import bench

MODELS = Path(__file__).parents[1] / "models"
VERIFIER, DRAFTER = MODELS / "verifier-f32.gguf", MODELS / "dflash-b8.gguf"
OPTIONS = bench.BenchOptions(
    VERIFIER, DRAFTER, threads=1, widths=(3,), max_tokens=12, repeat=1, n_ctx=256, kv_f32=True
)
PROMPT = bench.Prompt("anna", "facts", ({"role": "user", "content": "Who is anna?"},))


@pytest.fixture(scope="module")
def told() -> list[tuple[int, int, str]]:
    return []


@pytest.fixture(scope="module")
def report(told: list[tuple[int, int, str]]) -> bench.Report:
    return bench.measure(OPTIONS, [PROMPT], lambda *step: told.append(step))


def test_a_measuring_is_a_function(report: bench.Report, told: list[tuple[int, int, str]]) -> None:
    plain, drafting = report.results.overall
    assert (plain.mode, drafting.mode) == ("plain", "3")
    assert drafting.acceptance_length is not None
    assert drafting.acceptance_length > 1
    assert drafting.identical == 1.0
    assert report.document["options"]["modes"] == ["plain", "3"]
    assert report.document["other_work"] == report.results.other_work
    assert {total for _, total, _ in told} >= {2}


def test_what_is_written_is_what_was_measured(report: bench.Report, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "report"
    report.write(folder)
    kept = bench.read_report(folder / "report.json")
    assert kept == json.loads(json.dumps(report.document))
    assert (folder / "report.md").read_text(encoding="utf-8") == report.to_markdown()
    assert report.changes(None) == []
    other = replace(report, document={**kept, "options": {**kept["options"], "threads": 2}})
    assert "threads differs: 1 then, 2 now" in other.changes(kept)
    assert "threads differs: 1 then, 2 now" in other.to_markdown(kept)


def test_without_matplotlib_there_are_no_pictures_and_a_warning(
    report: bench.Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # its import fails
    with pytest.warns(UserWarning, match="matplotlib is not installed"):
        report.write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "records.jsonl",
        "report.json",
        "report.md",
    }


def test_the_package_loads_no_model_code_until_it_is_asked() -> None:
    code = "import sys, dflash_local.bench as b; dir(b); sys.exit('llama_cpp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], timeout=PATIENCE, check=False)
    assert done.returncode == 0

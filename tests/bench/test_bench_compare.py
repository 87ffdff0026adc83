"""Comparing reports: a change shows, noise does not."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from test_bench_measures import STAIRCASE, STEPS

from dflash_local.bench.compare import compare, describe
from dflash_local.bench.record import ADAPTIVE, PLAIN, Answer
from dflash_local.bench.report import derive, read_report, to_report, write_report
from dflash_local.bench.results_csv import write_csv
from dflash_local.bench.runner import BenchOptions, Run
from dflash_local.bench.suite import Prompt
from dflash_local.errors import DFlashError

MODELS = Path(__file__).parents[1] / "models"
OPTIONS = BenchOptions(MODELS / "verifier-f32.gguf", MODELS / "dflash-b8.gguf", threads=1)
PROMPTS = [Prompt(f"p{i}", "code" if i % 2 else "prose", text="x") for i in range(10)]


def _answer(prompt: Prompt, mode: str, number: int, seconds: float) -> Answer:
    times = [0.1 + seconds * i for i in range(21)]
    steps = [] if mode == PLAIN else STEPS
    return Answer(prompt.id, prompt.category, mode, number, 9, list(range(21)), times, steps)


def recorded(seed: int, slowed: float = 1.0, rounds: int = 3) -> Run:
    """A run whose step times waver by up to 2 %; those of width 4 are multiplied by ``slowed``."""
    rng = random.Random(seed)
    run = Run((2, 4, None), 4, 512, staircase=STAIRCASE)
    for number in range(rounds):
        for index, prompt in enumerate(PROMPTS):
            own = 0.010 * (1 + index / 5)  # prompts differ much more than rounds do
            factors = {PLAIN: 1.0, "2": 0.8, "4": 0.7 * slowed, ADAPTIVE: 0.75}
            for mode, factor in factors.items():
                seconds = own * factor * rng.uniform(0.98, 1.02)
                run.answers.append(_answer(prompt, mode, number, seconds))
    return run


def report(run: Run) -> dict[str, Any]:
    values = to_report(derive(OPTIONS, run, PROMPTS))
    copy: dict[str, Any] = json.loads(json.dumps(values, allow_nan=False))
    return copy


def test_a_slowed_session_shows_in_the_report() -> None:
    old, new = report(recorded(1)), report(recorded(2, slowed=1.25))
    changes = {(c.mode, c.measure): c for c in compare(old, new) if c.beyond_noise}
    assert set(changes) == {("4", "tokens_per_second"), ("4", "speed_up")}
    speed = changes["4", "tokens_per_second"]
    assert speed.ratio == pytest.approx(1 / 1.25, rel=0.03)
    assert speed.low < speed.ratio < speed.high < 1
    assert not speed.better
    lines = describe(old, new)
    assert [line for line in lines if line.startswith("width 4: tokens/s -")] != []
    assert all("worse" in line for line in lines)


def test_adaptive_widths_are_compared_like_any_other() -> None:
    old, new = recorded(1), recorded(2)
    for answer in new.answers:
        if answer.mode == ADAPTIVE:
            answer.times[:] = [time * 1.25 for time in answer.times]
    lines = describe(report(old), report(new))
    assert [line for line in lines if line.startswith("adaptive: speed-up -")] != []
    older = report(old)  # a report from before there were any
    older["options"]["modes"].remove(ADAPTIVE)
    assert {change.mode for change in compare(older, report(new))} == {PLAIN, "2", "4"}


def test_a_faster_session_is_called_better() -> None:
    lines = describe(report(recorded(2, slowed=1.25)), report(recorded(1)))
    assert any(line.startswith("width 4: speed-up +") and "better" in line for line in lines)


@pytest.mark.parametrize("seed", range(2, 12))
def test_noise_is_no_change(seed: int) -> None:
    lines = describe(report(recorded(1)), report(recorded(seed)))
    assert lines == ["nothing changed beyond noise (10 prompts compared)"]


def test_a_change_smaller_than_the_rounds_differ_is_no_change() -> None:
    wavering = recorded(2, slowed=1.25)
    for answer in wavering.answers:
        if answer.round == 1:  # the machine had something else to do
            answer.times[:] = [time * 1.6 for time in answer.times]
    changes = compare(report(recorded(1)), report(wavering))
    assert not any(change.beyond_noise for change in changes)


def test_a_single_round_is_trusted_less() -> None:
    old, new = report(recorded(1, rounds=1)), report(recorded(2, slowed=1.05, rounds=1))
    assert not any(change.beyond_noise for change in compare(old, new))


def test_other_conditions_are_told() -> None:
    old, new = report(recorded(1)), report(recorded(2))
    new["options"]["threads"], new["hardware"]["cpu"] = 8, "another"
    new["models"]["verifier"]["file"] = "larger.gguf"
    lines = describe(old, new)
    assert "threads differs: 1 then, 8 now" in lines
    assert any(line.startswith("cpu differs") for line in lines)
    assert any("larger.gguf" in line for line in lines)


def test_reports_of_other_prompts_cannot_be_compared() -> None:
    old, new = report(recorded(1)), report(recorded(2))
    new["prompts"] = {f"other-{name}": modes for name, modes in new["prompts"].items()}
    assert "nothing can be compared" in describe(old, new)[-1]


def test_a_report_is_read_back_as_written(tmp_path: Path) -> None:
    results = derive(OPTIONS, recorded(1), PROMPTS)
    written = to_report(results)
    write_report(results, written, tmp_path)
    assert read_report(tmp_path / "report.json") == json.loads(json.dumps(written))
    assert len((tmp_path / "records.jsonl").read_text().splitlines()) == 4 * 10 * 3


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 99}'])
def test_what_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "report.json"
    file.write_text(text)
    with pytest.raises(DFlashError, match="report"):
        read_report(file)


def test_a_report_names_no_folder_of_this_machine() -> None:
    assert str(Path.home()) not in json.dumps(report(recorded(1)))
    assert str(MODELS) not in json.dumps(report(recorded(1)))


def test_a_machine_has_one_csv_file_and_a_newer_run_replaces_the_older(tmp_path: Path) -> None:
    first, other = report(recorded(1)), report(recorded(1))
    other["models"]["verifier"]["file"] = "another.gguf"
    for values in (first, other, report(recorded(2))):
        file = write_csv(values, tmp_path / "results")
    assert list((tmp_path / "results").iterdir()) == [file]
    head, *rows = file.read_text().splitlines()
    assert head.startswith("date,cpu,gpu,system,threads,python,dflash-local,llama-cpp-python")
    assert len(rows) == 8
    assert sum("another.gguf" in row for row in rows) == 4

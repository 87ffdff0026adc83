"""``dflash_local.train`` from Python, on the tiny verifier: the functions, and what they tell."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")

from training import ASKED, VERIFIER  # noqa: E402
from waiting import PATIENCE  # noqa: E402

from dflash_local import DFlashError, train  # noqa: E402

STEPS = 6


class Told(train.Progress):
    """Keeps what a training tells."""

    def __init__(self) -> None:
        self.counted: list[tuple[str, int, int]] = []
        self.said: list[str] = []
        self.steps: list[int] = []
        self.looks: list[int] = []
        self.simulations: list[Any] = []

    def count(self, what: str, done: int, total: int) -> None:
        self.counted.append((what, done, total))

    def say(self, line: str) -> None:
        self.said.append(line)

    def fitted(self, progress: Any, score: Any) -> None:
        (self.looks if score is None else self.steps).append(progress.step)

    def simulated(self, simulation: Any) -> None:
        self.simulations.append(simulation)


def options(folder: Path) -> train.TrainOptions:
    rows = folder.parent / "rows.txt"
    rows.write_text("\n".join(ASKED) + "\n")
    return train.TrainOptions(
        VERIFIER,
        folder,
        train.Data(prompts=rows, held_out=0.2, max_tokens=24, max_length=96, at_once=8),
        train.DrafterShape(layers=1, block=4, target_layers=(0, 1, 2)),
        train.FitOptions(steps=STEPS, n_blocks=4, evaluate_every=3),
        threads=1,
        force=True,
    )


@pytest.fixture(scope="module")
def told() -> Told:
    return Told()


@pytest.fixture(scope="module")
def summary(told: Told, tmp_path_factory: pytest.TempPathFactory) -> train.Summary:
    return train.train(options(tmp_path_factory.mktemp("whole") / "drafter"), told)


def test_a_training_is_a_function(summary: train.Summary) -> None:
    assert summary.drafter == summary.folder / "drafter.gguf"
    report = json.loads((summary.folder / "report.json").read_text())
    assert (summary.steps, summary.best_step) == (report["steps"], report["best_step"])
    assert (summary.steps, summary.rank) == (STEPS, 0)
    assert summary.accepted == report["best"]["accepted"]
    assert summary.simulation is not None
    assert summary.simulation.accepted == report["simulation"]["accepted"]
    assert report["command"] is None, "a program asked for it"
    assert (summary.folder / "report.md").read_text().endswith("\n")


def test_it_tells_how_it_goes(summary: train.Summary, told: Told) -> None:
    assert told.steps == list(range(1, STEPS + 1))
    assert told.looks == [0, 3, 6]
    assert told.simulations == [summary.simulation]
    n = len(ASKED)
    assert ("answers", n, n) in told.counted
    assert f"rows: {n} read, {n} used" in told.said
    assert any(line.startswith("used: ") for line in told.said)


def test_the_steps_are_functions_and_make_the_same_drafter(
    summary: train.Summary, tmp_path: Path
) -> None:
    wanted = options(tmp_path / summary.folder.name)  # the GGUF bears the folder's name
    asked = train.prompts(wanted)
    assert asked is not None
    assert (asked.rows.found, asked.rows.n_left_out) == (len(ASKED), 0)
    texts = train.generate(wanted)
    assert len(texts) == len(ASKED)
    assert all(text.start < len(text.tokens) <= 96 for text in texts)
    with pytest.raises(DFlashError, match="no drafter was trained here yet"):
        train.simulate(wanted)
    fitted = train.fit(wanted)
    assert fitted.progress.step == STEPS
    assert train.simulate(wanted) == summary.simulation
    assert not (wanted.out / "drafter.gguf").exists()
    exported = train.export(wanted)
    assert exported == replace(summary, folder=wanted.out, drafter=wanted.out / "drafter.gguf")
    for name in ("drafter.gguf", "model.safetensors"):
        assert (wanted.out / name).read_bytes() == (summary.folder / name).read_bytes()


def test_what_is_prepared_does_not_change_while_it_is_fitted(
    summary: train.Summary, tmp_path: Path
) -> None:
    """The drafter before training is the same before a fit and after it."""
    from dflash_local.train.recipe import _opened, _ready

    wanted = options(Path(shutil.copytree(summary.folder, tmp_path / "copy")))
    wanted = replace(wanted, fit=replace(wanted.fit, steps=STEPS + 2))
    with _opened(wanted, train.Progress()) as run, _ready(run) as (ready, fit):
        before = ready.untrained().state_dict()
        assert fit.run(lambda *_: None).step == STEPS + 2
        after = ready.untrained().state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
        with pytest.raises(AttributeError):
            ready.fields = {}  # type: ignore[misc]


def test_options_and_progress_need_no_torch() -> None:
    code = """
import sys
import dflash_local.train as train
train.TrainOptions, train.FitOptions, train.Progress, dir(train)
assert "torch" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr

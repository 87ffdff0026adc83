"""``dflash-local demo``: what it counts and colours is what steps did, in a terminal or a pipe."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import MakeLlama
from terminal import Terminal
from waiting import PATIENCE

from dflash_local import Llama
from dflash_local.cli import demo
from dflash_local.cli.race import Runner, Tally, agreement, race
from dflash_local.cli.race_screen import TerminalRaceScreen, save_picture
from dflash_local.errors import ModelError

ROOT = Path(__file__).parents[2]
MODELS = Path(__file__).parents[1] / "models"
TINY = ["--verifier", str(MODELS / "verifier-f32.gguf")]
TINY += ["--drafter", str(MODELS / "dflash-b8.gguf"), "--width", "4"]
DEMO = [sys.executable, "-m", "dflash_local", "demo", "--threads", "1"]
PROMPT = "Who is anna?"
N_TOKENS = 40


@pytest.fixture
def runners(make_llama: MakeLlama, tiny_verifier: Path) -> tuple[Runner, Runner]:
    plain = make_llama(Llama, tiny_verifier)
    drafting = make_llama(Llama, tiny_verifier, drafter=MODELS / "dflash-b8.gguf", width=4)
    pair = Runner("plain", plain), Runner("drafting", drafting)
    for runner in pair:
        runner.begin(PROMPT, N_TOKENS)
    return pair


def text_of(runner: Runner) -> str:
    return "".join(piece.text for piece in runner.pieces)


def test_what_is_counted_and_coloured_is_what_the_steps_did(
    runners: tuple[Runner, Runner],
) -> None:
    plain, drafting = runners
    race(runners, lambda: None)

    stats = drafting._llm.stats.last
    assert 0 < stats.n_accepted < stats.n_drafted
    assert sum(piece.drafted for piece in drafting.pieces) == stats.n_accepted
    assert drafting.tally.n_steps == stats.n_steps
    assert len(drafting.tokens) == stats.n_tokens == drafting.tally.n_tokens + 1
    assert drafting.tally.acceptance_length == pytest.approx(stats.acceptance_length)
    assert not any(piece.drafted for piece in plain.pieces)
    assert plain.tally.acceptance_length == 1
    assert agreement(plain, drafting) == "the answers are the same, token for token"
    assert text_of(plain) == text_of(drafting) != ""


def test_whoever_has_used_less_time_is_next(runners: tuple[Runner, Runner]) -> None:
    seen: list[list[tuple[int, float, bool]]] = []

    def look() -> None:
        seen.append([(r.tally.n_steps, r.tally.seconds, r.finished) for r in runners])

    look()
    race(runners, look)
    for before, after in pairwise(seen):
        stepped = [b[0] != a[0] for b, a in zip(before, after, strict=True)]
        assert sum(stepped) == 1
        mine, other = before if stepped[0] else before[::-1]
        assert other[2] or mine[1] <= other[1]
    assert all(runner.finished for runner in runners)


def test_an_answer_is_as_long_as_was_asked_for_and_a_next_one_begins_anew(
    runners: tuple[Runner, Runner],
) -> None:
    race(runners, lambda: None)
    first = list(runners[1].tokens)
    runners[1].begin(PROMPT, 5)
    while not runners[1].finished:
        runners[1].step()
    assert runners[1].tokens == first[:5]
    assert runners[1].tally.n_tokens == 4


def test_answers_that_part_are_told_where(runners: tuple[Runner, Runner]) -> None:
    race(runners, lambda: None)
    runners[1].tokens[7] += 1
    assert agreement(*runners) == "the answers are the same for 7 tokens"


def test_the_ratio_is_of_tokens_a_second() -> None:
    plain, drafting = Tally(), Tally()
    assert demo.verdict(plain, drafting) == "the answers ended at once"
    plain.add(Tally(n_tokens=10, n_steps=10, seconds=2.0))
    drafting.add(Tally(n_tokens=12, n_steps=4, seconds=1.2))
    assert demo.verdict(plain, drafting) == "drafting 2.00 times as fast"


def test_the_picture_holds_whole_answers_and_drafted_tokens_in_colour(
    runners: tuple[Runner, Runner], tmp_path: Path
) -> None:
    race(runners, lambda: None)
    file = tmp_path / "demo.svg"
    save_picture(file, PROMPT, runners, ("V.gguf", "drafting 1.00 times as fast"))
    picture = ElementTree.parse(file).getroot()
    said = "".join(picture.itertext()).replace("\xa0", " ")
    for expected in (
        PROMPT,
        "V.gguf",
        "tokens/s",
        "acceptance length",
        "drafting 1.00 times as fast",
    ):
        assert expected in said
    for word in text_of(runners[1]).split():
        assert said.count(word) >= 2, "once plain, once drafting"


def test_a_model_cannot_steer_the_terminal(
    runners: tuple[Runner, Runner], capsys: pytest.CaptureFixture[str]
) -> None:
    race(runners, lambda: None)
    runners[0].pieces[0] = runners[0].pieces[0].__class__("a\x1b[2Jb\x07", drafted=False)
    with TerminalRaceScreen().showing("\x1b[2J", runners):
        pass
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\x07" not in shown


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*DEMO, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, check=False, encoding="utf-8"
    )


def test_a_pipe_gets_both_answers_as_plain_text(tmp_path: Path) -> None:
    file = tmp_path / "demo.svg"
    ask = ["-p", PROMPT, "-p", "Who is ben?", "--max-tokens", "24"]
    done = run(*TINY, *ask, "--svg", str(file))
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    names = "verifier-f32.gguf · models/dflash-b8.gguf · 1 thread"
    assert done.stdout.startswith(f"{names}\n> {PROMPT}\n")
    assert done.stdout.count("plain: ") == done.stdout.count("drafting: ") == 2
    assert done.stdout.count("times as fast") == 3, "each prompt's, and that of both"
    assert done.stdout.splitlines()[-1].startswith("2 prompts: drafting ")
    assert "Who is ben?" in file.read_text(encoding="utf-8").replace("&#160;", " ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (TINY[:2], 2, "--drafter is missing"),
        ([*TINY, "--max-tokens", "0"], 2, "--max-tokens"),
        ([*TINY[:3], "no-such.gguf"], 1, "dflash-local demo: "),
        ([*TINY, "-p", PROMPT, "--svg", "no/such/folder/a.svg"], 2, "no/such/folder"),
    ],
)
def test_mistakes_get_one_clear_line(arguments: list[str], status: int, says: str) -> None:
    done = run(*arguments)
    assert done.returncode == status
    assert says in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


posix_only = pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")


@pytest.fixture
def terminal(request: pytest.FixtureRequest) -> Iterator[Terminal]:
    opened = Terminal(*DEMO, *TINY, *request.param)
    yield opened
    opened.close()


@posix_only
@pytest.mark.parametrize("terminal", [["-p", PROMPT, "--max-tokens", "40"]], indirect=True)
def test_a_terminal_gets_both_panes_with_drafted_tokens_in_colour(terminal: Terminal) -> None:
    at = terminal.wait_for("drafting")
    terminal.wait_for("acceptance length", at)
    assert terminal.exit_status() == 0
    shown = terminal.text()
    assert "times as fast" in shown
    last = shown[shown.rindex(f"> {PROMPT}") :]
    above, below = last.split(" drafting · ", 1)
    assert "\x1b[1;32m" not in above
    # The title names the colour, the answer has it.
    assert below.count("\x1b[1;32m") > 2
    assert "Traceback" not in shown


@posix_only
@pytest.mark.parametrize("terminal", [["-p", PROMPT] * 200], indirect=True)
def test_ctrl_c_ends_it_with_130_and_gives_the_cursor_back(terminal: Terminal) -> None:
    terminal.wait_for("times as fast")
    terminal.type("\x03")
    assert terminal.exit_status() == 130
    shown = terminal.text()
    assert "Traceback" not in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


# ---- the demo's own pair and prompts -----------------------------------------------------------


def workload() -> Any:
    file = ROOT / "drafters" / "workloads" / "python_classes.py"
    spec = importlib.util.spec_from_file_location("python_classes", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_prompts_are_the_first_that_the_drafter_was_not_trained_on() -> None:
    assert list(demo.PROMPTS) == list(islice(workload().prompts(), 1000, 1003))


@pytest.mark.slow
def test_the_workloads_drafter_drafts_most_of_the_answer(
    make_llama: MakeLlama, smollm2: Path
) -> None:
    llm = make_llama(Llama, smollm2, drafter=demo.workload_drafter(), width=4)
    runner = Runner("drafting", llm)
    runner.begin(demo.PROMPTS[0], 48)
    while not runner.finished:
        runner.step()
    assert runner.tally.acceptance_length > 2
    assert sum(piece.drafted for piece in runner.pieces) > len(runner.pieces) / 2


def test_without_a_checkout_it_says_where_the_drafter_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_DRAFTER", Path("drafters", "nowhere", "drafter.gguf"))
    with pytest.raises(ModelError, match="make demo"):
        demo.workload_drafter()

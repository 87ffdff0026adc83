"""``benchmarks/robustness.py``: a few seconds of it on the tiny models, and what it counts."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "robustness.py"
sys.path.insert(0, str(ROOT / "benchmarks"))

from robustness import tally  # noqa: E402
from robustness.children import Outcome  # noqa: E402
from robustness.watch import LIMIT, Watch  # noqa: E402

#: What a run does often enough to happen in a few seconds, by the beginning of its name.
DONE = (
    "load",
    "close",
    "question, tokens",
    "question, rows",
    "question, criterion",
    "abandoned",
    "given up",
    "handed over",
    "llm.cancel()",
    "llm.cancel(wait=True)",
    "session.cancel()",
    "cancelled while it runs",
    "closed under a generator",
    "used after close",
    "questions at once",
    "state, saved and loaded",
    "statistics read",
    "width set",
    "answers, complete",
    "answers, a part",
)


def cells(text: str) -> dict[str, int]:
    """The rows of both tables."""
    return {name: int(n) for name, n in re.findall(r"^\| (.+) \| (\d+) \|$", text, re.MULTILINE)}


#: What is measured in seconds or bytes is for long runs on a quiet machine.
CERTAIN = (
    "signals",
    "wrong answers",
    "unexpected errors",
    "descriptors 1 and 2 changed",
    "log callback changed",
)


@pytest.mark.slow
def test_a_short_run_does_everything_and_finds_nothing() -> None:
    options = ["--demo", "0", "--seed", "7", "--children", "1", "--seconds", "4", "--warm-up", "1"]
    command = [sys.executable, str(SCRIPT), *options, "--no-interrupts"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert "ended itself" not in done.stdout, (
        done.stdout + done.stderr
    )  # as a child that hangs does
    found = cells(done.stdout)
    assert set(CERTAIN) <= set(tally.zeros([]))
    assert [name for name in CERTAIN if found[name] != 0] == [], done.stdout + done.stderr
    for name in DONE:
        assert any(n > 0 for key, n in found.items() if key.startswith(name)), name


@pytest.mark.parametrize(
    ("finding", "row"),
    [
        ("signal", "signals"),
        ("hang", "hangs over a second"),
        ("wrong", "wrong answers"),
        ("error", "unexpected errors"),
    ],
)
def test_a_finding_is_counted_in_its_row(finding: str, row: str) -> None:
    counted = tally.zeros([Outcome(1, findings=[(finding, "it")]), Outcome(2)])
    assert {name: n for name, n in counted.items() if n} == {row: 1}


def test_what_is_left_behind_is_counted() -> None:
    left = {"descriptors": 2, "streams": 1, "log_callback": 1, "threads": -1, "memory": 1 << 30}
    counted = tally.zeros([Outcome(1, counts=Counter(load=1), left=left, loads=1)])
    assert list(counted.values()) == [0, 0, 0, 0, 2, 1, 1, 1, 1]


@pytest.mark.slow
def test_a_thread_that_stands_still_is_a_hang() -> None:
    hangs: list[str] = []
    ticks: list[None] = []
    watch = Watch(hangs.append, lambda: ticks.append(None))
    watch.start()
    with watch.during("wait", "a model"):
        threading.Event().wait(LIMIT + 0.5)
    watch.stop()
    assert len(hangs) == 1
    assert hangs[0].startswith("wait on a model stands still")
    assert len(ticks) > 10

"""What ``dflash-local chat`` shows and writes of an answer."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from chats import posix_only

from dflash_local import Stats
from dflash_local.cli import cores
from dflash_local.cli.report import exact_text, one_line, totals, write_json
from dflash_local.cli.screen import TerminalScreen
from dflash_local.runtime.exact import ExactWidths

FACTS = {"tokens": 90, "tokens_per_second": 12.34, "finish_reason": "stop", "width": None}
FACTS |= {"drafted": 40, "accepted": 30, "acceptance_length": 1.5}


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        ({"verified_per_width": [61, 20, 0, 19]}, "accepted 30/40 · widths 0:61% 1:20% 3:19%"),
        (
            {"verified_per_width": [94, 6]},
            "accepted 30/40 · drafting does not pay here: 94% plain steps",
        ),
        (
            {"verified_per_width": [90], "drafted": 0},
            "s · drafting does not pay here: 100% plain steps",
        ),
        ({"verified_per_width": [], "drafted": 0}, "tokens/s · adaptive widths"),
        ({"verified_per_width": [2, 0, 0, 0, 88], "width": 4}, "accepted 30/40 · width 4"),
        ({"verified_per_width": [90], "width": 0, "drafted": 0}, "tokens/s · plain decoding"),
    ],
)
def test_the_line_under_an_answer_says_what_was_chosen(changes: dict[str, Any], end: str) -> None:
    line = one_line({**FACTS, **changes})
    assert line.startswith("90 tokens · 12.3 tokens/s")
    assert line.endswith(end)


def test_the_totals_show_what_widths_are_chosen_by() -> None:
    learned = {"verify": [0.02, 0.03, 0.0], "draft": [0.0, 0.005, 0.006], "accepted": [0.5]}
    lines = totals(Stats(), None, learned)
    assert lines[-5:] == [
        "a step pays where it emits more than verifying and drafting cost, in plain tokens:",
        "drafts  verify  draft  accepted  emits",
        "     0    1.00      -         -   1.00",
        "     1    1.50   0.25       50%   1.50",
        "     2       -   0.30         -      -",
    ]
    nothing = {"verify": [0.0, 0.0], "draft": [0.0, 0.0], "accepted": [0.5]}
    for unknown in (None, nothing):
        assert not any("emits" in line for line in totals(Stats(), None, unknown))


def test_exact_widths_are_told_with_their_reach() -> None:
    assert exact_text(ExactWidths((1, 2, 7), 512), 512) == "exact widths: 1 2 7"
    assert exact_text(ExactWidths((1, 2), 256), 512) == "exact widths: 1 2, in 256 positions"
    assert exact_text(ExactWidths((), 0), 512) == "exact widths: none"


@posix_only
def test_statistics_to_a_pipe_do_not_replace_it(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=write_json, args=(pipe, {"tokens": 1}))
    writer.start()
    assert json.loads(pipe.read_text()) == {"tokens": 1}
    writer.join()
    assert pipe.is_fifo()


def test_a_model_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    TerminalScreen().piece("a\x1b[2Jb\x07\r\nc\td")
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "c" in shown


def test_cores_are_counted_within_the_machine(tmp_path: Path) -> None:
    assert 1 <= cores.physical_cores() <= (os.cpu_count() or 1)
    quota = tmp_path / "cpu.max"
    counts = []
    for text in ("150000 100000\n", "400000 100000\n", "50000 100000\n", "max 100000\n"):
        quota.write_text(text)
        counts.append(cores._quota(quota))
    assert counts == [1, 4, 1, sys.maxsize]

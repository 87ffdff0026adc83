"""``benchmarks/record_trace.py``: what it records takes the steps of the real loop."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from exactness import greedy

import dflash_local

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import record_trace  # noqa: E402

MODELS = Path(__file__).parents[1] / "models"
VERIFIER, DRAFTER = MODELS / "verifier-f32.gguf", MODELS / "dflash-b8.gguf"
ASKED = ["Who is anna?", "Start at 3 and add 5, 4 times.", "Tell a story of 4 lines about the owl."]
N_TOKENS = 48


def record(folder: Path, *options: str) -> dict[str, list[str]]:
    """Lines of the file by what they begin with; those of anchors under "+"."""
    prompts, out = folder / "prompts.jsonl", folder / "trace.txt"
    rows = [{"messages": [{"role": "user", "content": text}]} for text in ASKED]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [*map(str, (VERIFIER, DRAFTER, prompts, "--out", out)), *options]
    arguments += ["--per-category", "9", "--tokens", str(N_TOKENS), "--threads", "1"]
    assert record_trace.main(record_trace._parse(arguments)) == 0
    lines: dict[str, list[str]] = {}
    for line in out.read_text().splitlines():
        lines.setdefault("+" if line[0] in "+-" else line.split()[0], []).append(line)
    return lines


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trace")


@pytest.fixture(scope="module")
def recorded(folder: Path) -> dict[str, list[str]]:
    return record(folder)


def accepted(line: str, width: int) -> int:
    """Drafts of an anchor's block up to the first that is wrong."""
    hits = line.split()[width - 1][::4]
    assert len(hits) == width
    return len(hits) - len(hits.lstrip("+"))


@pytest.mark.parametrize("width", [1, 3, 7])
def test_a_walk_over_a_recording_takes_the_steps_of_the_real_loop(
    recorded: dict[str, list[str]], make_llama: Any, width: int
) -> None:
    llm = make_llama(dflash_local.Llama, VERIFIER, drafter=DRAFTER, width=width)
    anchors = list(recorded["+"])
    for asked, answered in zip(recorded["prompt"], recorded["answer"], strict=True):
        prompt, answer = (
            [int(word) for word in line.split()[skipped:]]
            for line, skipped in ((asked, 2), (answered, 1))
        )
        own, anchors = anchors[: len(answer) - 1], anchors[len(answer) - 1 :]
        at = n_blocks = 0
        while at < len(own):
            at += 1 + accepted(own[at], width)
            n_blocks += 1
        assert greedy(llm, prompt, len(answer)) == answer
        assert llm.stats.last.n_blocks == n_blocks
    assert not anchors
    assert 0 < sum(accepted(line, width) for line in recorded["+"]) < width * len(recorded["+"])


def test_probabilities_are_thousandths(recorded: dict[str, list[str]]) -> None:
    for line in recorded["+"]:
        blocks = line.split()
        assert [len(block) for block in blocks] == [4 * width for width in range(1, 8)]
        assert all(
            block[i + 1 : i + 4].isdigit() for block in blocks for i in range(0, len(block), 4)
        )


def test_costs_take_the_place_of_older_ones_and_the_answers_stay(
    folder: Path, recorded: dict[str, list[str]]
) -> None:
    for _ in range(2):
        lines = record(folder, "--costs")
    assert {key: lines[key] for key in recorded} == recorded
    numbers = {
        key: [float(n) for n in lines[key][0].split()[1:]] for key in lines.keys() - recorded
    }
    assert {key: len(found) for key, found in numbers.items()} == {
        "verify": 8,
        "draft": 8,
        "inject": 1,
    }
    assert all(n > 0 for found in numbers.values() for n in found[1:])

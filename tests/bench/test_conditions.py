"""benchmarks/conditions.py: what it compares, on the tiny pair."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest
from conftest import F32

from dflash_local import Llama

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from conditions.compare import ADAPTIVE, PLAIN, Setup, compare, fixed
from conditions.condition import CONDITIONS, Condition

PROMPTS = [[1, 14, 88], [1, 14, 90], [1, 15, 88]]


@pytest.fixture
def setup(tiny_verifier: Path, tiny_drafters: dict[str, Path]) -> Setup:
    return Setup(tiny_verifier, tiny_drafters["dflash-b8"], (0, 3), threads=1, max_tokens=16)


def n_children() -> int:
    return len(psutil.Process().children())


@pytest.mark.slow
@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: condition.name)
def test_all_engines_answer_all_prompts(condition: Condition, setup: Setup) -> None:
    before = n_children()
    found = compare(condition, setup, PROMPTS)
    assert list(found.answers) == [PLAIN, fixed(0), fixed(3), ADAPTIVE]
    for engine, answers in found.answers.items():
        assert [answer.n_tokens > 0 for answer in answers] == [True] * len(PROMPTS)
        assert found.seconds_a_token(engine) > 0
    assert n_children() == before, "nothing competes any more"


def test_costs_are_those_of_the_condition_alone(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DFLASH_LOCAL_CACHE", str(tmp_path))
    loaded = []
    load = Llama.__init__

    def noted(llm: Llama, *arguments: object, **options: object) -> None:
        load(llm, *arguments, **options)
        loaded.append((llm.width, llm.session.learned()["verify"][0] > 0))

    monkeypatch.setattr(Llama, "__init__", noted)
    compare(Condition("here", options=F32), setup, PROMPTS)
    # Adaptive ones, fixed ones, and adaptive ones again with what was kept.
    assert loaded == [(None, True), (0, False), (None, True)]
    assert list(tmp_path.iterdir()) == []

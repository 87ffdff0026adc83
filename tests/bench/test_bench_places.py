"""The call that people make, and the speed by place in the answer: arithmetic, the tiny pair."""

from __future__ import annotations

import dataclasses
from itertools import accumulate

import pytest
from test_bench import OPTIONS, PROMPTS

from dflash_local.bench.calls import call_costs
from dflash_local.bench.markdown import to_markdown
from dflash_local.bench.places import LONG, PLACES, Place, by_place, speed_at
from dflash_local.bench.record import ADAPTIVE, CHAT, GENERATE, PAST_END, PLAIN, Answer
from dflash_local.bench.report import derive, to_report
from dflash_local.bench.runner import Run, run_bench
from dflash_local.bench.suite import Prompt, from_all_categories
from dflash_local.errors import ContextError


def answer(mode: str, gaps: list[float], *, call: str = GENERATE, prompt: str = "p") -> Answer:
    """The first token comes after half a second, the others after these gaps."""
    times = list(accumulate([0.5, *gaps]))
    return Answer(prompt, "code", mode, 0, 10, list(range(len(times))), times, call=call)


# ---- arithmetic ----------------------------------------------------------------------------


def test_the_speed_at_a_place_is_of_its_tokens_alone() -> None:
    slower = answer(PLAIN, [0.1] * 9 + [0.2] * 10)
    assert speed_at(slower, Place(0, 10)) == pytest.approx(10)
    assert speed_at(slower, Place(10, 20)) == pytest.approx(5)
    assert speed_at(slower, Place(5, 15)) == pytest.approx(10 / (5 * 0.1 + 5 * 0.2))
    assert speed_at(slower, Place(10, 21)) is None


def test_answers_count_at_the_places_that_they_reach() -> None:
    places = (Place(0, 10), Place(10, 20))
    answers = [
        answer(PLAIN, [0.2] * 19),
        answer("4", [0.1] * 9 + [0.2] * 10),
        answer(PLAIN, [0.2] * 9, prompt="short"),
        answer("4", [0.05] * 9, prompt="short"),
    ]
    found = {(at.mode, at.first): at for at in by_place(answers, [PLAIN, "4"], places)}
    assert found.keys() == {(PLAIN, 0), (PLAIN, 10), ("4", 0), ("4", 10)}
    assert found[PLAIN, 0].speed_up is None
    first, second = (found["4", place.first].speed_up for place in places)
    assert first is not None
    assert second is not None
    assert (first.n, first.low, first.high) == (2, pytest.approx(2.5), pytest.approx(3.5))
    assert (second.n, second.median) == (1, pytest.approx(1.0))


def test_calls_are_told_apart_and_short_answers_tell_nothing() -> None:
    answers = [answer(mode, [gap] * 149) for mode, gap in ((PLAIN, 0.2), ("4", 0.1))]
    chats = [answer(mode, [0.4] * 149, call=CHAT) for mode in (PLAIN, "4")]
    found = by_place([*answers, *chats], [PLAIN, "4"])
    assert [(at.call, at.mode) for at in found] == [
        (GENERATE, PLAIN), (GENERATE, "4"), (CHAT, PLAIN), (CHAT, "4"),
    ]  # fmt: skip
    assert {(at.first, at.end) for at in found} == {(0, 128)}
    gains = [at.speed_up.median for at in found if at.speed_up]
    assert gains == pytest.approx([2.0, 1.0])


def test_a_call_is_held_against_generate_prompt_by_prompt() -> None:
    answers = [answer(mode, [gap] * 9) for mode, gap in ((PLAIN, 0.2), (ADAPTIVE, 0.1))]
    answers.append(answer(PLAIN, [9.0] * 9, prompt="not called"))
    chats = [answer(mode, [gap] * 9, call=CHAT) for mode, gap in ((PLAIN, 0.25), (ADAPTIVE, 0.125))]
    plain, adaptive = call_costs(answers, chats, [PLAIN, ADAPTIVE])
    assert (plain.generate.median, plain.chat.median) == pytest.approx((0.2, 0.25))
    assert plain.difference.median == pytest.approx(0.05)
    assert plain.speed_up is None
    assert adaptive.difference.median == pytest.approx(0.025)
    assert adaptive.speed_up is not None
    assert adaptive.speed_up.median == pytest.approx(2.0)
    assert call_costs(answers, [], [PLAIN, ADAPTIVE]) == []


def test_prompts_are_taken_from_all_categories_in_turn() -> None:
    named = [Prompt(f"{c}{i}", c, text="x") for c in "ab" for i in range(3)]
    assert [p.id for p in from_all_categories(named, 5)] == ["a0", "b0", "a1", "b1", "a2"]


# ---- the tiny pair -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    options = dataclasses.replace(OPTIONS, widths=(7,), repeat=1, long_answers=1, n_ctx=2048)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFLASH_LOCAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        return run_bench(options, PROMPTS, lambda *_: None)


@pytest.mark.slow
def test_chats_are_asked_through_the_call_too_and_say_the_same(run: Run) -> None:
    asked = {(a.prompt, a.mode): a for a in run.answers}
    assert [(c.prompt, c.mode) for c in run.chats] == [
        key for key in asked if key[0] in ("anna", "june")
    ]
    for chat in run.chats:
        assert chat.call == CHAT
        assert chat.tokens == asked[chat.prompt, chat.mode].tokens
        assert len(chat.times) == chat.n_tokens
        assert chat.times == sorted(chat.times)
        assert chat.steps == []


def test_long_answers_reach_every_place(run: Run) -> None:
    assert [(a.prompt, a.mode, a.call) for a in run.long] == [
        ("anna", mode, PAST_END) for mode in (PLAIN, "7")
    ]
    assert [a.n_tokens for a in run.long] == [LONG, LONG]
    assert run.long[1].steps


def test_the_report_has_both(run: Run) -> None:
    results = derive(OPTIONS, run, PROMPTS)
    report = to_report(results)
    assert [cost["mode"] for cost in report["calls"]] == [PLAIN, "7"]
    reached = [(at["mode"], at["first"]) for at in report["places"] if at["call"] == PAST_END]
    assert reached == [(mode, place.first) for mode in (PLAIN, "7") for place in PLACES]
    text = to_markdown(results, report)
    assert "| ms a token | generate | create_chat_completion | difference |" in text
    assert "|  |  | 0 to 128 | 500 to 700 | 1300 to 1500 |" in text


def test_without_chats_and_long_answers_there_are_no_such_tables(run: Run) -> None:
    short = dataclasses.replace(run, chats=[], long=[])
    results = derive(OPTIONS, short, PROMPTS)
    text = to_markdown(results, to_report(results))
    assert (results.calls, results.places) == ([], [])
    assert "The call that people make" not in text
    assert "By place" not in text


def test_long_answers_need_the_context_for_them() -> None:
    options = dataclasses.replace(OPTIONS, long_answers=1)
    with pytest.raises(ContextError, match="--long-answers"):
        run_bench(options, PROMPTS, lambda *_: None)

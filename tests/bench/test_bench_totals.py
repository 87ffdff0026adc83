"""The median answer and all tokens over all seconds are two figures: both are told, by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from test_bench_compare import OPTIONS
from test_bench_measures import STAIRCASE, STEPS

from dflash_local.bench import markdown, measures, tables
from dflash_local.bench.adaptive import headline, judge
from dflash_local.bench.pictures import _adaptive_title, _speed_title
from dflash_local.bench.record import ADAPTIVE, PLAIN, Answer, Step
from dflash_local.bench.report import Results, derive, to_report
from dflash_local.bench.runner import Run
from dflash_local.bench.suite import Prompt
from dflash_local.bench.summary import summarize

#: Seconds a token of each mode, and tokens, by prompt: two short answers gain, a long one loses.
PACES = {
    "short-1": ({PLAIN: 0.010, "4": 0.005, ADAPTIVE: 0.005}, 11),
    "short-2": ({PLAIN: 0.010, "4": 0.005, ADAPTIVE: 0.005}, 11),
    "long": ({PLAIN: 0.010, "4": 0.0125, ADAPTIVE: 0.0125}, 201),
}


def _answer(prompt: str, mode: str, seconds: float, n_tokens: int) -> Answer:
    times = [0.1 + seconds * i for i in range(n_tokens)]
    steps = [] if mode == PLAIN else STEPS
    return Answer(prompt, "code", mode, 0, 9, list(range(n_tokens)), times, steps)


def _results(paces: dict[str, tuple[dict[str, float], int]] = PACES) -> Results:
    run = Run((4, None), 4, 512, staircase=STAIRCASE)
    for prompt, (seconds, n_tokens) in paces.items():
        run.answers += [_answer(prompt, mode, pace, n_tokens) for mode, pace in seconds.items()]
    return derive(OPTIONS, run, [Prompt(name, "code", text="x") for name in paces])


def _even() -> Results:
    paces = {
        name: ({PLAIN: 0.01, "4": 0.005, ADAPTIVE: 0.005}, n) for name, (_, n) in PACES.items()
    }
    return _results(paces)


def _report(results: Results) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(to_report(results), allow_nan=False))
    return copy


#: All plain seconds over all of the mode's; the tokens are as many.
TOTAL = (0.1 + 0.1 + 2.0) / (0.05 + 0.05 + 2.5)


def test_the_headline_names_the_median_answer_and_the_total() -> None:
    results = _results()
    overall = results.adaptive[0]
    assert overall.speed_up.median == pytest.approx(2.0)
    assert overall.speed_up_total == pytest.approx(TOTAL)
    text = headline(overall, results.adaptive[1:])
    assert text.startswith(
        "Adaptive widths give 2.00x plain decoding in the median answer and 0.85x in total, all "
        "tokens over all seconds (0.80x on the prompt that gains least, long)"
    )


def test_the_best_fixed_width_is_told_with_both_figures_too() -> None:
    results = _results()
    overall = results.adaptive[0]
    assert overall.over_best_total == pytest.approx(1.0)
    assert "1.00x the best fixed width, 4, in the median answer, 1.00x in total" in headline(
        overall, []
    )
    verdict = results.costs.verdict
    assert "gives 0.85x in total (measured; 2.00x in the median answer)" in verdict
    assert verdict.startswith("Drafting does not pay here")


def test_tables_pictures_and_csv_have_both() -> None:
    results = _results()
    speed = tables.speed_table(results.overall)
    at = speed.head.index("total speed-up")
    assert [row[at] for row in speed.rows] == ["1", "0.85", "0.85"]
    assert speed.head[at - 1] == "speed-up"
    adaptive = tables.adaptive_table(results.adaptive)
    row = dict(zip(adaptive.head, adaptive.rows[0], strict=True))
    assert (row["total speed-up"], row["over that, in total"]) == ("0.85", "1.00")
    assert tables.category_table(results.by_category).rows[0][2] == "2.00x / 0.85x / 2.40"
    assert "0.85x in total" in _adaptive_title(results.adaptive[0])
    assert "0.85x in total" in _speed_title(results.overall[1])


def test_a_warning_says_that_they_disagree_and_which_answers_lose() -> None:
    (line,) = [w for w in markdown.warnings(_report(_results())) if "disagree" in w]
    assert "**Median and total disagree**" in line
    assert "adaptive 2.00x and 0.85x" in line
    assert "width 4 2.00x and 0.85x" in line
    assert "the answers that take longest gain less than most" in line


def test_a_long_answer_that_gains_is_told_as_well() -> None:
    turned = {name: (dict(PACES["long"][0]), 11) for name in ("short-1", "short-2")}
    turned["long"] = (dict(PACES["short-1"][0]), 201)
    (line,) = [w for w in markdown.warnings(_report(_results(turned))) if "disagree" in w]
    assert "the answers that take longest gain more than most" in line


def test_where_they_agree_nothing_is_warned_of() -> None:
    assert not [w for w in markdown.warnings(_report(_even())) if "disagree" in w]


@pytest.mark.parametrize(
    ("median", "total", "apart"),
    [
        (1.0, 1.0, False),
        (1.5, 1.4, False),  # less than a tenth, and both say that it pays
        (1.5, 1.3, True),
        (0.8, 1.3, True),
        (1.02, 0.98, True),  # one says that drafting pays, the other that it does not
        (1.01, 0.99, False),  # as fast, say both
        (0.99, 1.0, False),
    ],
)
def test_what_counts_as_disagreement(median: float, total: float, *, apart: bool) -> None:
    assert measures.disagree(median, total) is apart


def test_over_another_base_the_total_is_of_the_pairs_alone() -> None:
    answers = [
        _answer("p", "2", 0.01, 11),
        _answer("p", ADAPTIVE, 0.02, 21),
        _answer("q", ADAPTIVE, 9.0, 11),  # nothing to pair it with
    ]
    assert measures.speed_up_total(answers, ADAPTIVE, "2") == pytest.approx(0.5)
    assert measures.speed_up_total(answers, ADAPTIVE) is None


def test_one_token_answers_have_no_speed_and_judge_nothing() -> None:
    answers = [_answer("p", mode, 0.0, 1) for mode in (PLAIN, ADAPTIVE)]
    assert judge(answers, [summarize(answers, mode) for mode in (PLAIN, ADAPTIVE)]) is None


def test_a_block_that_an_end_cut_says_nothing_of_the_drafts_behind_it() -> None:
    steps = [Step(4, 4, 5, {}), Step(4, 1, 1, {})]  # the second ends with its first draft
    assert measures.per_position(steps) == pytest.approx([1.0, 1.0, 1.0, 1.0])
    assert measures.per_position([Step(4, 1, 2, {})]) == pytest.approx([1.0, 0.0, 0.0, 0.0])
    assert measures.per_position([Step(4, 1, 1, {})]) == pytest.approx([1.0])

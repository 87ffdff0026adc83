"""The arithmetic of every measure, on recorded answers whose figures are worked out by hand."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from dflash_local.bench import measures
from dflash_local.bench.adaptive import Adaptive, headline, judge
from dflash_local.bench.costs import account, expected_length
from dflash_local.bench.record import (
    ADAPTIVE,
    PLAIN,
    Answer,
    Difference,
    Step,
    answer_from_dict,
    answer_to_dict,
)
from dflash_local.bench.staircase import Staircase
from dflash_local.bench.summary import Summary, summarize
from dflash_local.runtime.widths import choice, shares, shares_text

STEPS = [
    Step(4, 4, 5, {"draft": 0.002, "verify": 0.010, "sample": 0.001, "inject": 0.003}),
    Step(4, 1, 2, {"draft": 0.004, "verify": 0.014, "sample": 0.001, "inject": 0.001}),
    Step(4, 0, 1, {"draft": 0.003, "verify": 0.012, "sample": 0.001, "inject": 0.002}),
    # Cut by a limit: two drafts only, and then one more step with none.
    Step(2, 2, 3, {"draft": 0.003, "verify": 0.012, "sample": 0.001, "inject": 0.002}),
    Step(0, 0, 1, {"draft": 0.000, "verify": 0.010, "sample": 0.001, "inject": 0.001}),
]


def answer(
    mode: str = PLAIN,
    times: tuple[float, ...] = (0.5, 1.0, 1.5, 2.5),
    *,
    prompt: str = "p",
    category: str = "code",
    number: int = 0,
    tokens: list[int] | None = None,
    steps: list[Step] | None = None,
    correct: bool | None = None,
) -> Answer:
    return Answer(
        prompt=prompt,
        category=category,
        mode=mode,
        round=number,
        n_prompt=10,
        tokens=list(range(len(times))) if tokens is None else tokens,
        times=list(times),
        steps=steps or [],
        correct=correct,
    )


def test_acceptance_length_counts_the_bonus_and_steps_without_a_draft() -> None:
    assert measures.acceptance_length(STEPS) == pytest.approx((5 + 2 + 1 + 3 + 1) / 5)
    assert measures.acceptance_length([]) is None


def test_acceptance_rate_is_accepted_over_drafted() -> None:
    assert measures.acceptance_rate(STEPS) == pytest.approx((4 + 1 + 0 + 2) / (4 + 4 + 4 + 2))
    assert measures.acceptance_rate([Step(0, 0, 1, {})]) is None


def test_per_position_leaves_out_blocks_that_are_shorter() -> None:
    assert measures.per_position(STEPS) == pytest.approx([3 / 4, 2 / 4, 1 / 3, 1 / 3])
    assert measures.per_position([]) == []


def test_the_first_token_belongs_to_the_prompt() -> None:
    assert measures.throughput(answer()) == pytest.approx(3 / 2.0)
    assert measures.throughput(answer(times=(0.5,))) is None


def test_seconds_per_token_weigh_answers_by_their_length() -> None:
    long = answer(times=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5))
    assert measures.seconds_per_token([answer(), long]) == pytest.approx((2.0 + 0.5) / (3 + 5))


def test_speed_ups_compare_the_same_prompt_in_the_same_round() -> None:
    answers = [
        answer(times=(0.0, 1.0, 2.0)),  # 1 token a second
        answer("4", times=(0.0, 0.5, 1.0)),  # 2
        answer(times=(0.0, 2.0, 4.0), number=1),  # 0.5
        answer("4", times=(0.0, 0.5, 1.0), number=1),  # 2
        answer("4", times=(0.0, 0.1, 0.2), prompt="without a partner"),
    ]
    assert measures.speed_ups(answers, "4") == pytest.approx([2.0, 4.0])
    summary = summarize(answers[:4], "4")
    assert summary.speed_up == measures.Spread(3.0, 2.5, 3.5, 2)
    assert summary.speed_up_total == pytest.approx((6.0 / 4) / (2.0 / 4))


def test_the_prompt_that_gains_least_is_told_by_the_median_of_its_rounds() -> None:
    plain, slow, fast = (0.0, 1.0, 2.0), (0.0, 2.0, 4.0), (0.0, 0.5, 1.0)
    rounds = {"steady": [fast, fast, fast], "once disturbed": [slow, fast, fast]}
    rounds["slow"] = [slow, plain, plain]
    answers = [
        answer(mode, times=times, prompt=prompt, number=number)
        for prompt, adaptive in rounds.items()
        for number, own in enumerate(adaptive)
        for mode, times in ((PLAIN, plain), (ADAPTIVE, own))
    ]
    assert measures.least_speed_up(answers, ADAPTIVE) == ("slow", 1.0)
    assert summarize(answers, ADAPTIVE).speed_up_least == 1.0
    assert summarize(answers, PLAIN).speed_up_least is None
    assert measures.least_speed_up(answers, "4") is None


def test_shares_of_steps_are_by_drafts_verified() -> None:
    assert measures.verified_shares(STEPS) == pytest.approx([0.2, 0, 0.2, 0, 0.6])
    assert measures.unused_share(STEPS) == 0
    in_vain = [*STEPS, Step(0, 0, 1, {"draft": 0.002, "verify": 0.01})]
    assert measures.unused_share(in_vain) == pytest.approx(1 / 6)
    assert shares([]) == shares([0, 0]) == []
    assert shares([3, 0, 1]) == [0.75, 0, 0.25]
    assert shares_text([0.61, 0.004, 0.386]) == "0:61% 2:39%"


def test_mostly_plain_steps_are_no_failure_but_said() -> None:
    assert choice([0.61, 0.2, 0.19]) == "widths 0:61% 1:20% 2:19%"
    assert choice([0.94, 0.06]) == "drafting does not pay here: 94% plain steps"


def test_drift_is_how_far_the_rounds_lie_apart() -> None:
    rounds = [answer(times=(0.0, t, 2 * t), number=i) for i, t in enumerate((1.0, 1.25, 1.1))]
    assert measures.drift(rounds, PLAIN) == pytest.approx(0.25)
    assert measures.drift(rounds[:1], PLAIN) is None


def test_quartiles_are_interpolated() -> None:
    found = measures.spread([4.0, 1.0, 3.0, 2.0])
    assert found is not None
    assert (found.low, found.median, found.high) == pytest.approx((1.75, 2.5, 3.25))


def test_latency_is_taken_between_tokens() -> None:
    summary = summarize([answer(times=(0.5, 1.0, 1.0, 2.0))], PLAIN)
    assert summary.first_token == measures.Spread(0.5, 0.5, 0.5, 1)
    assert summary.per_token_p50 == pytest.approx(0.5)
    assert summary.per_token_p95 == pytest.approx(0.5 + 0.9 * 0.5)
    assert summary.answer == measures.Spread(2.0, 2.0, 2.0, 1)


@pytest.mark.parametrize(
    ("other", "position"),
    [([1, 2, 3], None), ([1, 9, 3], 1), ([9], 0), ([1, 2], 2), ([1, 2, 3, 4], 3)],
)
def test_first_difference(other: list[int], position: int | None) -> None:
    assert measures.first_difference([1, 2, 3], other) == position


def test_quality_is_the_share_of_identical_answers_the_margin_and_the_score() -> None:
    answers = [
        answer(tokens=[1, 2, 3, 4], correct=True),
        answer("4", tokens=[1, 2, 3, 4], correct=True),
        answer(tokens=[1, 2, 3, 4], prompt="q", correct=True),
        answer("4", tokens=[1, 2, 5, 4], prompt="q", correct=False),
        answer(prompt="r"),
        answer("4", prompt="r"),
    ]
    differences = [Difference("q", "4", 2, 0.25), Difference("q", "7", 1, 3.0)]
    summary = summarize(answers, "4", differences=differences)
    assert summary.identical == pytest.approx(2 / 3)
    assert summary.largest_margin == 0.25
    assert summary.score == pytest.approx(1 / 2)
    assert summarize(answers, "4", greedy=False).identical is None


def test_exact_steps_are_those_whose_width_was_found_to_be_exact() -> None:
    answers = [answer("4", steps=STEPS)]
    assert summarize(answers, "4").exact is None
    assert summarize(answers, "4", exact_widths=()).exact == pytest.approx(1 / 5)
    assert summarize(answers, "4", exact_widths=(1, 2)).exact == pytest.approx(2 / 5)
    assert summarize(answers, "4", exact_widths=(1, 2, 3, 4)).exact == 1
    assert summarize([answer()], PLAIN, exact_widths=(4,)).exact is None


def test_a_category_takes_its_own_answers_only() -> None:
    answers = [
        answer(times=(0.0, 1.0)),
        answer("4", times=(0.0, 0.5), steps=STEPS[:1]),
        answer(times=(0.0, 1.0), prompt="q", category="prose"),
        answer("4", times=(0.0, 2.0), prompt="q", category="prose", steps=STEPS[1:2]),
    ]
    code, prose = (summarize(answers, "4", name) for name in ("code", "prose"))
    assert (code.acceptance_length, prose.acceptance_length) == (5.0, 2.0)
    assert code.speed_up is not None
    assert prose.speed_up is not None
    assert (code.speed_up.median, prose.speed_up.median) == (2.0, 0.5)
    assert summarize(answers, "4").acceptance_length == 3.5


def test_seconds_by_part() -> None:
    means = measures.part_seconds(STEPS)
    assert means["draft"] == pytest.approx(0.0024)
    assert means["verify"] == pytest.approx(0.0116)
    assert measures.part_medians(STEPS)["draft"] == pytest.approx(0.003)


def test_answers_survive_json() -> None:
    original = answer("4", steps=STEPS, correct=False)
    assert answer_from_dict(json.loads(json.dumps(answer_to_dict(original)))) == original


# ---- the cost account ----------------------------------------------------------------------

STAIRCASE = Staircase(
    n_context=100,
    plain=0.010,
    verify=[0.010, 0.012, 0.014, 0.016, 0.018],
    draft=[0.0, 0.002, 0.002, 0.002, 0.002],
)


def _summaries(steps: list[Step], gain: float) -> list[Summary]:
    plain = answer(times=(0.0, *(0.01 * (i + 1) for i in range(11))))
    fast = answer("4", times=tuple(t / gain for t in plain.times), steps=steps)
    return [summarize([plain, fast], mode) for mode in (PLAIN, "4")]


def test_break_even_is_the_cost_of_a_step_in_plain_tokens() -> None:
    costs = account(STAIRCASE, _summaries(STEPS, gain=1.5))
    row = costs.rows[4]
    # Medians of the steps: sample 1 ms, inject 2 ms.
    assert row.step == pytest.approx(0.018 + 0.002 + 0.001 + 0.002)
    assert row.break_even == pytest.approx(2.3)
    assert row.acceptance_length == pytest.approx(2.4)
    assert row.predicted == pytest.approx(2.4 / 2.3)
    assert row.measured == pytest.approx(1.5)
    assert [r.measured for r in costs.rows[:4]] == [None] * 4
    assert costs.step_parts["4"]["verify"] == pytest.approx(0.0116)


def test_lengths_of_other_widths_follow_from_the_acceptance_per_position() -> None:
    assert expected_length([0.75, 0.5, 0.25], 2) == pytest.approx(2.25)
    costs = account(STAIRCASE, _summaries(STEPS, gain=1.5))
    assert costs.rows[2].acceptance_length == pytest.approx(1 + 3 / 4 + 2 / 4)
    assert costs.rows[0].acceptance_length == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("changes", "accepted", "reason"),
    [
        ({"verify": [0.010, 0.03, 0.05, 0.07, 0.09]}, 3, "verifying"),
        ({"draft": [0.0, 0.05, 0.05, 0.05, 0.05]}, 3, "drafting"),
        ({}, 0, "the drafter"),
    ],
)
def test_the_verdict_names_what_holds_drafting_back(
    changes: dict[str, list[float]], accepted: int, reason: str
) -> None:
    seconds = {"draft": 0.002, "verify": 0.018, "sample": 0.0, "inject": 0.0}
    steps = [Step(4, accepted, accepted + 1, seconds)]
    staircase = Staircase(**{**asdict(STAIRCASE), **changes})
    verdict = account(staircase, _summaries(steps, gain=0.8)).verdict
    assert "does not pay here: the best fixed width, 4, gives 0.80x in total" in verdict
    assert f"holds it back most is {reason}" in verdict


def test_the_verdict_advises_other_weights_only_to_quantised_ones() -> None:
    staircase = Staircase(**{**asdict(STAIRCASE), "verify": [0.01, 0.05, 0.06, 0.07, 0.09]})
    summaries = _summaries([Step(4, 3, 4, STEPS[0].seconds)], gain=0.8)
    assert "BF16 weights" in account(staircase, summaries, "Q4_1").verdict
    assert "BF16 weights" not in account(staircase, summaries, "BF16").verdict


def test_the_verdict_says_when_drafting_pays() -> None:
    verdict = account(STAIRCASE, _summaries(STEPS, gain=1.5)).verdict
    assert verdict.startswith("Drafting pays here: the best fixed width, 4, gives 1.50x in total")
    assert "costs 2.30 plain tokens and emits 2.40" in verdict


# ---- adaptive widths -----------------------------------------------------------------------


def _judged(category: str = "all") -> Adaptive | None:
    """Seconds a token: plain 1; width 2 fast on code, width 4 on prose; adaptive in between."""
    paces = {
        "code": {PLAIN: 1.0, "2": 0.5, "4": 1.0, ADAPTIVE: 0.625},
        "prose": {PLAIN: 1.0, "2": 1.25, "4": 0.8, ADAPTIVE: 1.0},
        "maths": {PLAIN: 1.0, "2": 0.5, "4": 1.0, ADAPTIVE: 0.5},
    }
    answers = [
        answer(
            mode,
            times=(0.0, pace, 2 * pace),
            prompt=f"{kind}-1",
            category=kind,
            steps=[] if mode == PLAIN else STEPS,
        )
        for kind, modes in paces.items()
        for mode, pace in modes.items()
    ]
    return judge(answers, [summarize(answers, m, category) for m in (PLAIN, "2", "4", ADAPTIVE)])


def test_adaptive_widths_are_held_against_the_best_fixed_width_of_each_category() -> None:
    overall, prose = _judged(), _judged("prose")
    assert overall is not None
    assert prose is not None
    assert (overall.best, prose.best) == ("2", "4")
    assert overall.over_best is not None
    assert overall.over_best.median == pytest.approx(1.0)  # of 0.8, 1.25 and 1
    assert prose.over_best == measures.Spread(0.8, 0.8, 0.8, 1)
    assert (overall.least, overall.least_prompt) == (1.0, "prose-1")
    assert overall.speed_up.median == pytest.approx(1.6)
    assert overall.widths == pytest.approx([0.2, 0, 0.2, 0, 0.6])


def test_the_headline_says_what_adaptive_widths_reached() -> None:
    parts = [_judged(name) for name in ("all", "code", "prose")]
    overall, *kinds = [part for part in parts if part is not None]
    assert headline(overall, kinds) == (
        "Adaptive widths give 1.60x plain decoding in the median answer and 1.41x in total, all "
        "tokens over all seconds (1.00x on the prompt that gains least, prose-1); "
        "1.00x the best fixed width, 2, in the median answer, 1.06x in total "
        "(0.80x the best of code, 2); "
        "widths 0:20% 2:20% 4:60%."
    )


def test_without_adaptive_widths_there_is_nothing_to_judge() -> None:
    answers = [answer(), answer("4", steps=STEPS)]
    assert judge(answers, [summarize(answers, mode) for mode in (PLAIN, "4")]) is None


def test_the_cost_account_is_of_fixed_widths_but_for_the_parts_of_steps() -> None:
    summaries = _summaries(STEPS, gain=1.5)
    plain = answer(times=(0.0, *(0.01 * (i + 1) for i in range(11))))
    chosen = answer(ADAPTIVE, times=plain.times, steps=STEPS[4:])
    costs = account(STAIRCASE, [*summaries, summarize([plain, chosen], ADAPTIVE)])
    assert costs.rows == account(STAIRCASE, summaries).rows
    assert costs.step_parts[ADAPTIVE]["verify"] == pytest.approx(0.010)


def test_without_fixed_widths_lengths_follow_from_what_was_learned() -> None:
    plain = answer()
    chosen = answer(ADAPTIVE, times=plain.times, steps=STEPS)
    summaries = [summarize([plain, chosen], mode) for mode in (PLAIN, ADAPTIVE)]
    costs = account(STAIRCASE, summaries, accepted=[0.5, 0.4, 0.5, 0.0])
    lengths = [row.acceptance_length for row in costs.rows]
    assert lengths == pytest.approx([1, 1.5, 1.7, 1.8, 1.8])
    assert {row.measured for row in costs.rows} == {None}
    assert costs.rows[1].inject == pytest.approx(0.002)
    assert "(predicted)" in costs.verdict

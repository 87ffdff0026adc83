"""What adaptive widths reached, beside plain decoding and the best fixed width of the same run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dflash_local.runtime.widths import choice

from .measures import (
    Spread,
    all_steps,
    least_speed_up,
    speed_up_total,
    speed_ups,
    spread,
    unused_share,
)
from .record import ADAPTIVE, PLAIN, Answer
from .summary import Summary


@dataclass(frozen=True)
class Adaptive:
    """Over one category ("all": every category).

    Attributes:
        speed_up: over plain decoding, spread over the pairs.
        speed_up_total: over plain decoding, all tokens over all seconds.
        least: of the prompts' medians over the rounds, and whose it is.
        best: the fixed width of the largest median speed-up here; None: none was run.
        over_best: throughput over that of ``best``, same prompt and round.
        over_best_total: the same of all tokens over all seconds.
        widths: [w]: share of steps in which w drafts were verified; [0]: plain ones.
        unused: share of steps that drafted and verified nothing of it.
    """

    category: str
    speed_up: Spread
    speed_up_total: float
    least: float
    least_prompt: str
    best: str | None
    over_best: Spread | None
    over_best_total: float | None
    widths: list[float]
    unused: float


def judge(answers: Sequence[Answer], summaries: Sequence[Summary]) -> Adaptive | None:
    """The figures of one category; None where adaptive widths were not run, or too short.

    Args:
        answers: of the whole run.
        summaries: of the category, one a mode.
    """
    own = next((s for s in summaries if s.mode == ADAPTIVE), None)
    if own is None or own.speed_up is None or own.speed_up_total is None:
        return None
    among = [a for a in answers if own.category in ("all", a.category)]
    least = least_speed_up(among, ADAPTIVE)
    assert least is not None, "there is a speed-up"
    best = _best_fixed(summaries)
    return Adaptive(
        category=own.category,
        speed_up=own.speed_up,
        speed_up_total=own.speed_up_total,
        least=least[1],
        least_prompt=least[0],
        best=best,
        over_best=None if best is None else spread(speed_ups(among, ADAPTIVE, best)),
        over_best_total=None if best is None else speed_up_total(among, ADAPTIVE, best),
        widths=own.widths,
        unused=unused_share(all_steps(a for a in among if a.mode == ADAPTIVE)) or 0.0,
    )


def headline(overall: Adaptive, by_category: Sequence[Adaptive]) -> str:
    """A sentence: beside plain, beside the best fixed width, and the widths it chose."""
    return (
        f"Adaptive widths give {overall.speed_up.median:.2f}x plain decoding in the median answer "
        f"and {overall.speed_up_total:.2f}x in total, all tokens over all seconds "
        f"({overall.least:.2f}x on the prompt that gains least, {overall.least_prompt})"
        f"{_beside_best(overall, by_category)}; {choice(overall.widths)}."
    )


def _beside_best(overall: Adaptive, by_category: Sequence[Adaptive]) -> str:
    if overall.over_best is None or overall.over_best_total is None:
        return ""
    text = (
        f"; {overall.over_best.median:.2f}x the best fixed width, {overall.best}, in the median "
        f"answer, {overall.over_best_total:.2f}x in total"
    )
    known = [(a.over_best.median, a) for a in by_category if a.over_best is not None]
    if len(known) < 2:
        return text
    ratio, least = min(known, key=lambda pair: pair[0])
    return f"{text} ({ratio:.2f}x the best of {least.category}, {least.best})"


def _best_fixed(summaries: Sequence[Summary]) -> str | None:
    fixed = [(s.speed_up.median, s.mode) for s in summaries if s.speed_up and _is_fixed(s.mode)]
    return max(fixed, key=lambda known: known[0])[1] if fixed else None


def _is_fixed(mode: str) -> bool:
    return mode not in (PLAIN, ADAPTIVE)

"""The tables of a report, as rows of text: Markdown and the terminal show the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dflash_local.runtime.widths import shares_text

from .adaptive import Adaptive
from .calls import CallCost
from .costs import CostAccount
from .measures import Spread
from .places import AtPlace, Place
from .record import ADAPTIVE, CHAT, GENERATE, PLAIN
from .summary import Summary

NONE = "-"


@dataclass(frozen=True)
class Table:
    """Texts by row; ``best`` is the row to point out."""

    head: list[str]
    rows: list[list[str]]
    best: int | None = None


def mode_name(mode: str) -> str:
    """As people read it."""
    return mode if mode in (PLAIN, ADAPTIVE) else f"width {mode}"


def fastest(summaries: Sequence[Summary]) -> int | None:
    """Index of the summary with the largest median throughput."""
    speeds = [s.tokens_per_second.median if s.tokens_per_second else 0.0 for s in summaries]
    return speeds.index(max(speeds)) if any(speeds) else None


def speed_table(summaries: Sequence[Summary]) -> Table:
    """Throughput, speed-up, acceptance."""
    rows = [
        [
            mode_name(s.mode),
            spread_text(s.tokens_per_second, 1),
            "1" if s.mode == PLAIN else spread_text(s.speed_up, 2),
            "1" if s.mode == PLAIN else number(s.speed_up_total, 2),
            number(s.speed_up_least, 2),
            number(s.acceptance_length, 2),
            percent(s.acceptance_rate),
        ]
        for s in summaries
    ]
    head = ["", "tokens/s", "speed-up", "total speed-up", "least prompt"]
    head += ["acceptance length", "acceptance rate"]
    return Table(head, rows, fastest(summaries))


def latency_table(summaries: Sequence[Summary]) -> Table:
    """Milliseconds to the first token and between tokens, seconds of an answer."""
    rows = [
        [
            mode_name(s.mode),
            spread_text(_scaled(s.first_token, 1e3), 1),
            milliseconds(s.per_token_p50),
            milliseconds(s.per_token_p95),
            spread_text(s.answer, 2),
        ]
        for s in summaries
    ]
    head = ["", "first token, ms", "per token p50, ms", "per token p95, ms", "whole answer, s"]
    return Table(head, rows)


def quality_table(summaries: Sequence[Summary]) -> Table:
    """What the answers are worth."""
    rows = [
        [
            mode_name(s.mode),
            percent(s.identical),
            percent(s.exact),
            number(s.largest_margin, 3),
            percent(s.score),
        ]
        for s in summaries
    ]
    head = [
        "",
        "identical to plain greedy",
        "exact steps",
        "largest margin where they part",
        "score",
    ]
    return Table(head, rows)


def category_table(by_category: dict[str, list[Summary]]) -> Table:
    """Median and total speed-up and acceptance length of each width, by category."""
    first = next(iter(by_category.values()))
    modes = [s.mode for s in first if s.mode != PLAIN]
    rows = []
    for category, summaries in by_category.items():
        cells = [
            f"{spread_median(s.speed_up)}x / {number(s.speed_up_total, 2)}x / "
            f"{number(s.acceptance_length, 2)}"
            for s in summaries
            if s.mode != PLAIN
        ]
        rows.append([category, str(summaries[0].n_answers), *cells])
    return Table(["category", "answers", *map(mode_name, modes)], rows)


def adaptive_table(found: Sequence[Adaptive]) -> Table:
    """Adaptive widths beside plain and the best fixed width, and what they chose."""
    rows = [
        [
            a.category,
            spread_text(a.speed_up, 2),
            number(a.speed_up_total, 2),
            f"{a.least:.2f} ({a.least_prompt})",
            NONE if a.best is None else a.best,
            spread_text(a.over_best, 2),
            number(a.over_best_total, 2),
            shares_text(a.widths),
            percent(a.unused),
        ]
        for a in found
    ]
    head = ["category", "speed-up", "total speed-up", "least prompt", "best fixed width"]
    head += ["over that", "over that, in total"]
    return Table([*head, "steps by drafts verified", "steps that drafted in vain"], rows)


def call_table(found: Sequence[CallCost]) -> Table:
    """``create_chat_completion`` beside ``generate``."""
    rows = [
        [
            mode_name(cost.mode),
            *(spread_text(_scaled(of, 1e3), 2) for of in (cost.generate, cost.chat)),
            spread_text(_scaled(cost.difference, 1e3), 2),
            "1" if cost.mode == PLAIN else spread_text(cost.speed_up, 2),
        ]
        for cost in found
    ]
    head = ["ms a token", GENERATE, CHAT, "difference", "speed-up of the call"]
    return Table(head, rows)


def place_table(found: Sequence[AtPlace]) -> Table:
    """The speed-up by place in the answer; plain decoding's tokens a second."""
    places = list(dict.fromkeys((at.first, at.end) for at in found))
    known = {(at.call, at.mode, at.first, at.end): at for at in found}
    rows = []
    for call, mode in dict.fromkeys((at.call, at.mode) for at in found):
        ats = (known.get((call, mode, *place)) for place in places)
        rows.append([call, mode_name(mode), *map(_at_text, ats)])
    return Table(["", "", *(str(Place(*place)) for place in places)], rows)


def _at_text(at: AtPlace | None) -> str:
    if at is None:
        return NONE
    if at.speed_up is None:
        return f"{at.tokens_per_second.median:.1f} tokens/s"
    return f"{spread_text(at.speed_up, 2)} ({at.speed_up.n})"


def cost_table(costs: CostAccount) -> Table:
    """A step of each width: milliseconds, and what it has to bring in."""
    rows = [
        [
            str(row.width),
            *(milliseconds(t) for t in (row.verify, row.draft, row.sample, row.inject)),
            number(row.break_even, 2),
            number(row.acceptance_length, 2),
            number(row.predicted, 2),
            number(row.measured, 2),
        ]
        for row in costs.rows
    ]
    head = ["width", "verify, ms", "draft, ms", "sample, ms", "inject, ms", "break-even length"]
    head += ["acceptance length", "predicted speed-up", "total speed-up"]
    measured = [row.measured or 0.0 for row in costs.rows]
    return Table(head, rows, measured.index(max(measured)) if any(measured) else None)


def part_table(costs: CostAccount) -> Table:
    """Where the time of the run's steps went."""
    rows = []
    for mode, parts in costs.step_parts.items():
        total = sum(parts.values()) or 1.0
        cells = [f"{milliseconds(t)} ({t / total:.0%})" for t in parts.values()]
        rows.append([mode_name(mode), *cells])
    names = list(next(iter(costs.step_parts.values()), {}))
    return Table(["mean step, ms", *names], rows)


def number(value: float | None, digits: int) -> str:
    """Fixed digits; a dash for None."""
    return NONE if value is None else f"{value:.{digits}f}"


def percent(share: float | None) -> str:
    """0.5 is 50%."""
    return NONE if share is None else f"{share:.0%}"


def milliseconds(seconds: float | None) -> str:
    """With three digits that matter."""
    if seconds is None:
        return NONE
    value = 1e3 * seconds
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def spread_text(spread: Spread | None, digits: int) -> str:
    """The median, and the quartiles in brackets."""
    if spread is None:
        return NONE
    numbers = [f"{v:.{digits}f}" for v in (spread.median, spread.low, spread.high)]
    return f"{numbers[0]} [{numbers[1]}, {numbers[2]}]"


def spread_median(spread: Spread | None) -> str:
    """The median alone."""
    return NONE if spread is None else f"{spread.median:.2f}"


def _scaled(spread: Spread | None, factor: float) -> Spread | None:
    if spread is None:
        return None
    return Spread(spread.median * factor, spread.low * factor, spread.high * factor, spread.n)

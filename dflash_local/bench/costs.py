"""The cost account: what a step costs, what it has to bring in, and what holds it back."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from .record import ADAPTIVE, PLAIN
from .staircase import Staircase
from .summary import Summary


@dataclass(frozen=True)
class CostRow:
    """One width. Seconds a step.

    Attributes:
        verify, draft: medians of the staircase.
        sample, inject: medians of the run's steps, at the nearest width that was run.
        break_even: acceptance length at which a step costs as much as plain decoding of its tokens.
        acceptance_length: measured at this width; else what the acceptance per position of the
            widest run says of it, or without one what adaptive widths have learned.
        predicted: speed-up: acceptance length over break-even.
        measured: total speed-up of the run; None where the width was not run.
        measured_median: speed-up of the run's median answer, likewise.
    """

    width: int
    verify: float
    draft: float
    sample: float
    inject: float
    break_even: float
    acceptance_length: float
    predicted: float
    measured: float | None
    measured_median: float | None

    @property
    def step(self) -> float:
        """All parts."""
        return self.verify + self.draft + self.sample + self.inject


@dataclass(frozen=True)
class CostAccount:
    """All widths, and a sentence about the best.

    Attributes:
        plain: seconds of a plain token.
        n_context: tokens before the block where costs were measured.
        step_parts: by mode: mean seconds by part of the steps that the run took.
        verdict: what holds drafting back, and what would help.
    """

    plain: float
    n_context: int
    rows: list[CostRow]
    step_parts: Mapping[str, Mapping[str, float]]
    verdict: str


def account(
    staircase: Staircase,
    summaries: Sequence[Summary],
    weights: str = "",
    accepted: Sequence[float] = (),
) -> CostAccount:
    """Puts the staircase beside what the run measured.

    Args:
        staircase: costs by width.
        summaries: over all categories, one a mode.
        weights: the verifier's, such as "Q4_1".
        accepted: [k]: share of drafts accepted at position k, were all before them, as adaptive
            widths have learned it; used where no width that drafts was run.
    """
    stepping = {s.mode: s for s in summaries if s.mode != PLAIN and s.part_seconds}
    by_width = {int(mode): s for mode, s in stepping.items() if mode != ADAPTIVE}
    parts = by_width or dict(enumerate(stepping.values()))
    curve = _curve(by_width) or list(accumulate(accepted, operator.mul))
    rows = [
        _row(width, staircase, by_width.get(width), _nearest(width, parts), curve)
        for width in range(len(staircase.verify))
    ]
    return CostAccount(
        plain=staircase.plain,
        n_context=staircase.n_context,
        rows=rows,
        step_parts={mode: dict(s.part_seconds) for mode, s in stepping.items()},
        verdict=verdict(rows, staircase, weights),
    )


def expected_length(per_position: Sequence[float], width: int) -> float:
    """Tokens a step emits when only the first ``width`` drafts are verified."""
    return 1.0 + sum(per_position[:width])


def _row(
    width: int,
    staircase: Staircase,
    own: Summary | None,
    parts: Mapping[str, float],
    curve: Sequence[float],
) -> CostRow:
    verify, draft = staircase.verify[width], staircase.draft[width]
    break_even = (verify + draft + parts["sample"] + parts["inject"]) / staircase.plain
    length = own.acceptance_length if own and own.acceptance_length else None
    if length is None:
        length = expected_length(curve, width)
    return CostRow(
        width=width,
        verify=verify,
        draft=draft,
        sample=parts["sample"],
        inject=parts["inject"],
        break_even=break_even,
        acceptance_length=length,
        predicted=length / break_even,
        measured=own.speed_up_total if own else None,
        measured_median=own.speed_up.median if own and own.speed_up else None,
    )


def _nearest(width: int, by_width: Mapping[int, Summary]) -> Mapping[str, float]:
    if not by_width:
        return {"sample": 0.0, "inject": 0.0}
    return by_width[min(by_width, key=lambda w: abs(w - width))].part_medians


def _curve(by_width: Mapping[int, Summary]) -> list[float]:
    return by_width[max(by_width)].per_position if by_width else []


# ---- what holds it back --------------------------------------------------------------------


def verdict(rows: Sequence[CostRow], staircase: Staircase, weights: str = "") -> str:
    """One sentence on the best width: what it brings, what holds it back, what would help."""
    drafting = [row for row in rows if row.width > 0]
    measured = [row for row in drafting if row.measured is not None]
    if not drafting:
        return "This drafter drafts nothing: there is nothing to judge."
    best = max(measured or drafting, key=lambda row: row.measured or row.predicted)
    gain = best.measured or best.predicted
    held = _held_back_by(best, staircase, gain, weights)
    opening = "Drafting pays here" if gain > 1 else "Drafting does not pay here"
    return (
        f"{opening}: the best fixed width, {best.width}, gives {_gain(best)}; a step "
        f"there costs {best.break_even:.2f} plain tokens and emits {best.acceptance_length:.2f}, "
        f"and what holds it back most is {held}."
    )


def _gain(row: CostRow) -> str:
    if row.measured is None or row.measured_median is None:
        return f"{row.predicted:.2f}x (predicted)"
    return (
        f"{row.measured:.2f}x in total (measured; {row.measured_median:.2f}x in the median answer)"
    )


def _held_back_by(row: CostRow, staircase: Staircase, gain: float, weights: str) -> str:
    plain = staircase.plain
    n_rejected = row.width + 1 - row.acceptance_length
    # What the step would bring if one thing were as good as it can be; acceptance half-way, since
    # no drafter is always right.
    wishes = {
        "verify": row.acceptance_length * plain / (row.step - row.verify + staircase.verify[0]),
        "draft": row.acceptance_length * plain / (row.step - row.draft),
        "inject": row.acceptance_length * plain / (row.step - row.inject),
        "accept": (row.acceptance_length + n_rejected / 2) / row.break_even,
    }
    worst = max(wishes, key=lambda name: wishes[name])
    flatter = "" if weights in _UNQUANTISED else "BF16 weights where they fit, "
    reason = _REASONS[worst].format(**_facts(row, staircase), flatter=flatter)
    return f"{reason} ({gain * wishes[worst] / row.predicted:.2f}x if {_CONDITIONS[worst]})"


def _facts(row: CostRow, staircase: Staircase) -> dict[str, float]:
    return {
        "rows": row.width + 1,
        "verify": row.verify / staircase.verify[0],
        "draft": row.draft / row.step,
        "inject": row.inject / row.step,
        "rejected": 1 - (row.acceptance_length - 1) / row.width,
    }


# Their kernels take several rows best on CPUs: quantised ones unpack, and are bound by that.
_UNQUANTISED = ("BF16", "F16", "F32")

_REASONS = {
    "verify": "verifying: {rows} tokens in one decode cost {verify:.2f} single ones, and {flatter}"
    "more cores or a GPU would help",
    "draft": "drafting: it takes {draft:.0%} of a step, and a drafter with fewer layers, or "
    "quantised, would help",
    "inject": "handing features to the drafter: it takes {inject:.0%} of a step, and a drafter "
    "with fewer target layers would help",
    "accept": "the drafter: {rejected:.0%} of its drafts are rejected, and training it longer, on "
    "prompts like these, would help",
}
_CONDITIONS = {
    "verify": "a block cost as much as one token",
    "draft": "it cost nothing",
    "inject": "it cost nothing",
    "accept": "half of the rejected ones were accepted",
}

"""From answers to rows of the table. No clock and no model here."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from dflash_local.bench.measures import Spread, disagree, spread

from .answer import UPSTREAM, Answer, Record, Variant

#: Upstream's ``n_max`` unless its user says otherwise.
UPSTREAM_DEFAULT = 3

_Key = tuple[int, int]


@dataclass(frozen=True)
class Row:
    """One engine at one width on one kind of weights.

    Attributes:
        engine, weights, width: which; width is upstream's ``n_max``, the most of adaptive ones.
        note: "plain", "default", "best", or both of them.
        n_answers: answers measured, of which ``n_tokens`` tokens.
        tokens_per_second: of decoding, over the answers; the first token is not counted.
        speedup: over the engine's own plain decoding of the same prompt in the same round.
        speedup_total: over the same, all tokens over all seconds.
        acceptance_length: tokens emitted per verify step, all answers together.
        n_drafted, n_accepted: drafts, all answers together.
        same: share of answers equal to the engine's own plain ones.
        seconds_to_first: median time to the first token.
    """

    engine: str
    weights: str
    width: int
    note: str
    n_answers: int
    n_tokens: int
    tokens_per_second: Spread
    speedup: Spread
    speedup_total: float
    acceptance_length: float
    n_drafted: int
    n_accepted: int
    same: float
    seconds_to_first: float

    @property
    def disagrees(self) -> bool:
        """Whether the median answer and all of them together say two things."""
        return disagree(self.speedup.median, self.speedup_total)


def rows(records: Iterable[Record]) -> list[Row]:
    """A row for each variant, in the order they were first measured, with the best ones marked.

    Answers of a single token have no decoding and are left out.
    """
    groups: dict[tuple[str, Variant], dict[_Key, Answer]] = {}
    for record in records:
        if record.answer.seconds_per_token is not None:
            group = groups.setdefault((record.weights, record.variant), {})
            group[record.prompt, record.round] = record.answer
    made = []
    for (weights, variant), answers in groups.items():
        row = _row(weights, variant, answers, groups.get((weights, variant.plain), {}))
        if row is not None:
            made.append(row)
    return _with_best(made)


def _row(
    weights: str, variant: Variant, answers: dict[_Key, Answer], plain: dict[_Key, Answer]
) -> Row | None:
    pairs = [(answer, plain[key]) for key, answer in answers.items() if key in plain]
    if not pairs:
        return None
    kept = [answer for answer, _ in pairs]
    n_steps = sum(answer.n_steps for answer in kept)
    emitted = sum(answer.n_tokens - 1 for answer in kept)  # the first comes from the prompt
    return Row(
        engine=variant.engine,
        weights=weights,
        width=variant.width,
        note=_note(variant),
        n_answers=len(kept),
        n_tokens=sum(answer.n_tokens for answer in kept),
        tokens_per_second=_spread([1 / _pace(answer) for answer in kept]),
        speedup=_spread([_pace(base) / _pace(answer) for answer, base in pairs]),
        speedup_total=_total_pace([base for _, base in pairs]) / _total_pace(kept),
        acceptance_length=emitted / n_steps if n_steps else 1.0,
        n_drafted=sum(answer.n_drafted for answer in kept),
        n_accepted=sum(answer.n_accepted for answer in kept),
        same=statistics.fmean(answer.output == base.output for answer, base in pairs),
        seconds_to_first=statistics.median(answer.seconds_to_first for answer in kept),
    )


def _spread(values: Sequence[float]) -> Spread:
    known = spread(values)
    assert known is not None  # a row has answers
    return known


def _pace(answer: Answer) -> float:
    pace = answer.seconds_per_token
    assert pace is not None  # such answers are left out before
    return pace


def _total_pace(answers: Sequence[Answer]) -> float:
    return sum(a.seconds for a in answers) / sum(a.n_tokens - 1 for a in answers)


def _note(variant: Variant) -> str:
    if variant.width == 0:
        return "plain"
    is_default = variant.engine == UPSTREAM and variant.width == UPSTREAM_DEFAULT
    return "default" if is_default else ""


def _with_best(made: list[Row]) -> list[Row]:
    best: dict[tuple[str, str], Row] = {}
    counts: dict[tuple[str, str], int] = {}
    for row in made:
        key = (row.weights, row.engine)
        if row.width > 0:
            counts[key] = counts.get(key, 0) + 1
            if key not in best or row.speedup.median > best[key].speedup.median:
                best[key] = row
    marked = {id(row) for key, row in best.items() if counts[key] > 1}
    return [
        replace(row, note=f"{row.note}, best".removeprefix(", ")) if id(row) in marked else row
        for row in made
    ]

"""From records to figures. No clock and no model in here.

The definitions are those of ``docs/analysis.md``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import numpy as np

from dflash_local.runtime.widths import shares

from .record import PARTS, PLAIN, Answer, Difference, Step

#: Ratios of two speed-ups: what is no difference, and what is one to be warned of.
_SLIGHTLY, _FAR_APART = 1.03, 1.1


@dataclass(frozen=True)
class Spread:
    """A median with its quartiles, of ``n`` values."""

    median: float
    low: float
    high: float
    n: int


def spread(values: Iterable[float]) -> Spread | None:
    """Median and quartiles; None of nothing."""
    known = list(values)
    if not known:
        return None
    low, middle, high = np.quantile(known, (0.25, 0.5, 0.75)).tolist()
    return Spread(middle, low, high, len(known))


# ---- acceptance ----------------------------------------------------------------------------


def acceptance_length(steps: Sequence[Step]) -> float | None:
    """Tokens emitted per verify step, correction or bonus included."""
    return _ratio(sum(step.n_emitted for step in steps), len(steps))


def acceptance_rate(steps: Sequence[Step]) -> float | None:
    """Drafts accepted over drafts verified; comparable at one width only."""
    return _ratio(sum(s.n_accepted for s in steps), sum(s.n_drafted for s in steps))


def per_position(steps: Sequence[Step]) -> list[float]:
    """[k]: the share of blocks of more than k drafts in which at least k + 1 were accepted.

    Where an answer ends inside a block, nobody knows what the drafts behind it were worth: the
    block counts as one that has none of them.
    """
    judged = [
        step.n_drafted if step.n_emitted > step.n_accepted else step.n_accepted for step in steps
    ]
    shares = []
    for k in range(max(judged, default=0)):
        blocks = [step for step, n in zip(steps, judged, strict=True) if n > k]
        shares.append(sum(step.n_accepted > k for step in blocks) / len(blocks))
    return shares


def verified_shares(steps: Sequence[Step]) -> list[float]:
    """[w]: the share of steps in which w drafts were verified."""
    return shares(Counter(step.n_drafted for step in steps))


def unused_share(steps: Sequence[Step]) -> float | None:
    """Share of steps that drafted and then verified nothing of it."""
    unused = [step for step in steps if step.seconds.get("draft") and not step.n_drafted]
    return _ratio(len(unused), len(steps))


def part_seconds(steps: Sequence[Step]) -> dict[str, float]:
    """Mean seconds a step, by part; 0 without steps."""
    n_steps = max(1, len(steps))
    return {part: sum(s.seconds.get(part, 0.0) for s in steps) / n_steps for part in PARTS}


def part_medians(steps: Sequence[Step]) -> dict[str, float]:
    """Median seconds a step, by part: what a step takes when nothing disturbs it."""
    return {part: median(s.seconds.get(part, 0.0) for s in steps) for part in PARTS}


def all_steps(answers: Iterable[Answer]) -> list[Step]:
    """The verify steps of several answers."""
    return [step for answer in answers for step in answer.steps]


# ---- speed ---------------------------------------------------------------------------------


def throughput(answer: Answer) -> float | None:
    """Tokens a second of decoding. The first token belongs to the prompt."""
    return _ratio(answer.n_tokens - 1, answer.seconds_decoding)


def seconds_per_token(answers: Iterable[Answer]) -> float | None:
    """Seconds of decoding over tokens decoded, of all the answers together."""
    known = list(answers)
    seconds = sum(answer.seconds_decoding for answer in known)
    return _ratio(seconds, sum(answer.n_tokens - 1 for answer in known))


def token_gaps(answers: Iterable[Answer]) -> list[float]:
    """Seconds between a token and the one before. The tokens of a step come together."""
    return [later - earlier for answer in answers for earlier, later in pairwise(answer.times)]


def pairs(
    answers: Sequence[Answer], mode: str, base: str = PLAIN
) -> Iterator[tuple[Answer, Answer]]:
    """(plain, other) answers to the same prompt in the same round; or those of another ``base``."""
    partners = {(a.prompt, a.round): a for a in answers if a.mode == base}
    for answer in answers:
        partner = partners.get((answer.prompt, answer.round))
        if answer.mode == mode and partner is not None:
            yield partner, answer


def speed_ups(answers: Sequence[Answer], mode: str, base: str = PLAIN) -> list[float]:
    """Throughput over that of plain decoding, or of another ``base``, pair by pair."""
    return [ratio for _, ratio in _speed_ups(answers, mode, base)]


def speed_up_total(answers: Sequence[Answer], mode: str, base: str = PLAIN) -> float | None:
    """Seconds per token of the base over this mode's, all answers of the pairs together."""
    both = list(pairs(answers, mode, base))
    before = seconds_per_token(one for one, _ in both)
    after = seconds_per_token(other for _, other in both)
    return before / after if before and after else None


def disagree(typical: float, total: float) -> bool:
    """Whether the speed-up of the median answer and that of all answers together say two things.

    They do where one says faster and the other slower, or where they lie far apart.
    """
    other_side = (typical - 1) * (total - 1) < 0
    ratio = max(typical, total) / min(typical, total)
    return ratio > (_SLIGHTLY if other_side else _FAR_APART)


def least_speed_up(answers: Sequence[Answer], mode: str) -> tuple[str, float] | None:
    """The prompt that gains least over plain decoding, by the median of its rounds, and that."""
    by_prompt: dict[str, list[float]] = {}
    for prompt, ratio in _speed_ups(answers, mode, PLAIN):
        by_prompt.setdefault(prompt, []).append(ratio)
    medians = [(prompt, median(ratios)) for prompt, ratios in by_prompt.items()]
    return min(medians, key=lambda known: known[1], default=None)


def _speed_ups(answers: Sequence[Answer], mode: str, base: str) -> Iterator[tuple[str, float]]:
    for before, after in pairs(answers, mode, base):
        slow, fast = throughput(before), throughput(after)
        if slow and fast:
            yield after.prompt, fast / slow


def drift(answers: Sequence[Answer], mode: str) -> float | None:
    """How far the rounds' seconds per token lie apart: largest over smallest, less 1.

    None with a single round: nothing is known then of how much the machine wavers.
    """
    rounds = sorted({answer.round for answer in answers})
    own = [a for a in answers if a.mode == mode]
    seconds = [seconds_per_token(a for a in own if a.round == number) for number in rounds]
    known = [value for value in seconds if value]
    return max(known) / min(known) - 1 if len(known) > 1 else None


# ---- quality -------------------------------------------------------------------------------


def first_difference(plain: Sequence[int], other: Sequence[int]) -> int | None:
    """Index of the first token that differs; None where the answers are identical."""
    for index, (a, b) in enumerate(zip(plain, other, strict=False)):
        if a != b:
            return index
    return None if len(plain) == len(other) else min(len(plain), len(other))


def exact_share(steps: Sequence[Step], exact_widths: Sequence[int] | None) -> float | None:
    """Share of the steps whose logits were plain decoding's to the bit: without drafts all are.

    None where exact widths are not known, or there are no steps.
    """
    if exact_widths is None or not steps:
        return None
    return sum(step.n_drafted in (0, *exact_widths) for step in steps) / len(steps)


def identical_share(answers: Sequence[Answer], mode: str) -> float | None:
    """Share of answers whose tokens are those of the plain answer."""
    same = [first_difference(p.tokens, o.tokens) is None for p, o in pairs(answers, mode)]
    return _ratio(sum(same), len(same))


def largest_margin(differences: Iterable[Difference], mode: str) -> float | None:
    """Of the margins between the two best logits, where answers part."""
    return max((d.margin for d in differences if d.mode == mode), default=None)


def score(answers: Iterable[Answer]) -> float | None:
    """Share of the checked answers that passed their check."""
    checked = [answer.correct for answer in answers if answer.correct is not None]
    return _ratio(sum(checked), len(checked))


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None

"""How many tokens a greedy answer may have drafted and accepted, as far as rounding decides.

Two builds round one model differently, so where the drafter's two best tokens nearly tie they may
draft different ones. One text is then reached in other steps, and with other counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

from dflash_local import Session

#: Drafted and accepted.
Counts = tuple[int, int]


def reachable(
    session: Session, prompt: Sequence[int], answer: Sequence[int], n_tokens: int, margin: float
) -> set[Counts]:
    """The counts of all the ways to `answer`, which is `n_tokens` long or ends with its last token.

    A draft may be any token whose logit lies within `margin` of the best. Not with DSpark and
    DFlash2, where a draft depends on the one before it.
    """

    @cache
    def from_here(n_emitted: int) -> frozenset[Counts]:
        if n_emitted >= len(answer):
            return frozenset({(0, 0)})
        session.sync([*prompt, *answer[: n_emitted - 1]])
        session.anchor(answer[n_emitted - 1])
        n_drafted = len(session.propose(max_tokens=n_tokens - n_emitted).tokens)
        lengths = list(_lengths(session, answer[n_emitted:], n_drafted, margin))
        session.discard()
        return frozenset(
            (n_drafted + drafted, n_accepted + accepted)
            for n_accepted in lengths
            for drafted, accepted in from_here(n_emitted + n_accepted + 1)
        )

    return set(from_here(1))


def _lengths(
    session: Session, truth: Sequence[int], n_drafted: int, margin: float
) -> Iterator[int]:
    """How many drafts may be accepted; an end within a draft counts as the correction."""
    n_rows = n_drafted if n_drafted <= len(truth) else len(truth) - 1
    for row in range(n_rows):
        logits = session.draft_logits(row)
        right = float(logits[truth[row]])
        logits[truth[row]] = -float("inf")
        lead = right - float(logits.max())  # of the right token over all others
        if lead <= margin:
            yield row
        if lead < -margin:
            return
    yield n_rows

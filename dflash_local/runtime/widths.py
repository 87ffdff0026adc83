"""Which widths the steps took, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

#: From this share of plain steps on, drafting is said not to pay.
MOSTLY_PLAIN = 0.9


def shares(counts: Mapping[int, int] | Sequence[int]) -> list[float]:
    """[w]: share of the steps of width w, of their counts by width; [] of no steps."""
    by_width = dict(counts) if isinstance(counts, Mapping) else dict(enumerate(counts))
    total = sum(by_width.values())
    if not total:
        return []
    return [by_width.get(width, 0) / total for width in range(max(by_width) + 1)]


def shares_text(of_steps: Sequence[float]) -> str:
    """Shares by width as "0:61% 1:20% 3:19%"; those that round to nothing are left out."""
    known = [f"{width}:{share:.0%}" for width, share in enumerate(of_steps) if share >= 0.005]
    return " ".join(known)


def choice(of_steps: Sequence[float]) -> str:
    """What adaptive widths came to: which were verified, or that drafting was not worth it."""
    if of_steps and of_steps[0] >= MOSTLY_PLAIN:
        return f"drafting does not pay here: {of_steps[0]:.0%} plain steps"
    return f"widths {shares_text(of_steps)}"

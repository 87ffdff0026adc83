"""What a drafter without weights would do: the text after the last place that ended alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .capture import Reading
from .conversations import Conversation

_LONGEST = 3  # tokens that have to be alike; fewer where there is no such place


def propose(tokens: Sequence[int], width: int) -> list[int]:
    """Up to ``width`` tokens to follow ``tokens``; none where nothing is repeated."""
    for n in range(min(_LONGEST, len(tokens) - 1), 0, -1):
        end = list(tokens[-n:])
        for at in range(len(tokens) - n - 1, -1, -1):
            if list(tokens[at : at + n]) == end:
                return list(tokens[at + n : at + n + width])
    return []


def accepted(texts: Iterable[tuple[Conversation, Reading, Sequence[int]]], width: int) -> float:
    """Drafts accepted a block at anchors of texts, mean; a block without a draft accepts none."""
    counts = []
    for text, reading, anchors in texts:
        for anchor in anchors:
            drafts = propose(text.tokens[: anchor + 1], width)
            wanted = reading.ids[anchor : anchor + len(drafts), 0].tolist()
            hits = [a == b for a, b in zip(drafts, wanted, strict=False)]
            counts.append(hits.index(False) if False in hits else len(hits))
    return sum(counts) / max(1, len(counts))

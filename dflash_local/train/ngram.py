"""What a drafter without weights would do: the text after the last place that ended alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

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


def accepted_drafts(
    texts: Iterable[tuple[Conversation, Reading, Sequence[int]]], width: int
) -> npt.NDArray[np.int64]:
    """[n] drafts accepted at each anchor of texts; a block without a draft accepts none."""
    counts = []
    for text, reading, anchors in texts:
        for anchor in anchors:
            drafts = propose(text.tokens[: anchor + 1], width)
            end = min(anchor + len(drafts), len(text.tokens) - 1)  # as far as the text goes
            wanted = reading.ids[anchor:end, 0].tolist()
            hits = [a == b for a, b in zip(drafts, wanted, strict=False)]
            counts.append(hits.index(False) if False in hits else len(hits))
    return np.array(counts, np.int64)

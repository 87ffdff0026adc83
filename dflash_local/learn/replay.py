"""Held-out traffic once more, through the real loop, with the drafter before and the one after."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dflash_local.train.capture import Capturer
from dflash_local.train.conversations import Conversation
from dflash_local.train.examples import anchors_of
from dflash_local.train.simulation import Anchored, RealLoop

from .pace import Pace

_EVERY = 8  # tokens between two anchors: each costs the reading of those between
_ROOM = 256  # of the context, for a block
#: Standard errors that a difference has to exceed. By chance one in forty does.
ERRORS = 2.0
#: Dialogues that are replayed at least: of fewer the error of a difference is not known.
FEWEST = 5


@dataclass(frozen=True)
class Traffic:
    """What is replayed.

    Attributes:
        texts: with the verifier's readings and their anchors.
        dialogues: a number for each text; those of one dialogue have the same.
    """

    texts: Sequence[Anchored]
    dialogues: Sequence[int]


@dataclass(frozen=True)
class Replayed:
    """What one drafter did: drafts accepted at each anchor, by text."""

    accepted: list[list[int]]

    @property
    def length(self) -> float:
        """Tokens a step: the accepted drafts and the verifier's own token."""
        n_blocks = sum(map(len, self.accepted))
        return 1 + sum(map(sum, self.accepted)) / n_blocks


@dataclass(frozen=True)
class Verdict:
    """Two drafters on the same anchors.

    Attributes:
        before, after: acceptance lengths.
        error: standard error of their difference; texts of a dialogue count as one.
        n_blocks, n_dialogues: that were replayed.
    """

    before: float
    after: float
    error: float
    n_blocks: int
    n_dialogues: int

    @property
    def is_better(self) -> bool:
        """Whether the one after is better by more than chance makes it."""
        return self.after - self.before > ERRORS * self.error


def read_traffic(
    verifier: Path,
    texts: Sequence[Conversation],
    dialogues: Sequence[int],
    pace: Pace,
    *,
    n_threads: int,
    n_gpu_layers: int,
) -> Traffic:
    """Has the verifier read what it is going to be asked to accept."""
    n_ctx = max(len(text.tokens) for text in texts)
    anchored: list[Anchored] = []
    with Capturer(
        verifier, [], n_ctx=n_ctx, n_threads=n_threads, n_gpu_layers=n_gpu_layers
    ) as capturer:
        for text in texts:
            pace.make_way()
            anchors = anchors_of(text, 0, None)[::_EVERY].tolist()
            anchored.append((text, capturer.read(text.tokens, 1), anchors))
    return Traffic(anchored, dialogues)


def replay(
    verifier: Path,
    drafter: Path,
    traffic: Traffic,
    pace: Pace,
    *,
    seconds: float = math.inf,
    n_threads: int,
    n_gpu_layers: int,
) -> Replayed:
    """Drafts at the anchors.

    Args:
        seconds: of work, after which it ends where it has replayed a few dialogues.
    """
    n_ctx = max(len(text.tokens) for text, *_ in traffic.texts) + _ROOM
    with RealLoop(
        verifier, drafter, n_ctx=n_ctx, n_threads=n_threads, n_gpu_layers=n_gpu_layers
    ) as loop:
        return Replayed(list(_accepted(loop, traffic, pace, pace.worked + seconds)))


def _accepted(loop: RealLoop, traffic: Traffic, pace: Pace, until: float) -> Iterator[list[int]]:
    seen = set()
    for text, dialogue in zip(traffic.texts, traffic.dialogues, strict=False):
        pace.make_way()
        yield list(loop.accepted(*text))
        seen.add(dialogue)
        if pace.worked > until and len(seen) >= FEWEST:
            return


def compare(before: Replayed, after: Replayed, dialogues: Sequence[int]) -> Verdict:
    """Of the texts that both replayed."""
    gains: dict[int, int] = {}  # drafts more, by dialogue
    sizes: dict[int, int] = {}  # blocks
    pairs = list(zip(before.accepted, after.accepted, strict=False))
    for (old, new), dialogue in zip(pairs, dialogues, strict=False):
        gains[dialogue] = gains.get(dialogue, 0) + sum(new) - sum(old)
        sizes[dialogue] = sizes.get(dialogue, 0) + len(old)
    n_blocks, n = sum(sizes.values()), len(sizes)
    mean = sum(gains.values()) / n_blocks
    spread = sum((gains[d] - mean * sizes[d]) ** 2 for d in sizes)
    error = math.sqrt(spread * n / (n - 1)) / n_blocks if n > 1 else math.inf
    olds, news = zip(*pairs, strict=True)
    return Verdict(Replayed(list(olds)).length, Replayed(list(news)).length, error, n_blocks, n)

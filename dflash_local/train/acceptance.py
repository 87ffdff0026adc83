"""How far drafts get on texts that the verifier has read, by their width; in torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from . import ngram
from .examples import Batch, make_batch
from .model import DrafterModel, Vocabulary
from .processes import autocast
from .simulation import Anchored

Ints = npt.NDArray[np.int64]

_AT_ONCE = 64  # blocks: 80 MB of logits with 49,000 tokens and blocks of 8
_NARROW = 7  # every width up to here is looked at, and every fourth beyond


@dataclass(frozen=True)
class Acceptance:
    """How far drafts of one width get.

    Attributes:
        width: drafts a block.
        accepted: of a block, mean.
        reached: [width] share of blocks in which at least k + 1 drafts were accepted.
    """

    width: int
    accepted: float
    reached: list[float]

    @classmethod
    def of(cls, counts: Ints, width: int) -> Acceptance:
        """From the drafts accepted in each block."""
        return cls(width, float(counts.mean()), [float((counts > k).mean()) for k in range(width)])


def widths_of(block_size: int) -> list[int]:
    """Those worth a look, the widest last."""
    widest = block_size - 1
    return sorted({*range(1, min(_NARROW, widest) + 1), *range(_NARROW, widest, 4), widest})


def accepted_drafts(model: DrafterModel, vocabulary: Vocabulary, batch: Batch, width: int) -> Ints:
    """[n] drafts accepted in each block of a batch, were the verifier greedy.

    Args:
        batch: with targets of ``width`` positions at least; blocks without any are left out.
        width: drafts a block; narrower ones than the model was trained with see fewer masks.
    """
    blocks = vocabulary.blocks(batch.anchor_tokens, width + 1)
    with torch.no_grad(), autocast(batch.features.device):
        hidden = model(batch.features, batch.anchors, blocks)
        best = vocabulary.logits(hidden[:, :, 1:]).argmax(-1)
    targets = vocabulary.rows(batch.targets)
    hit = (best == targets.ids[:, :, :width, 0]) & targets.valid[:, :, :width]
    counts = hit.long().cumprod(-1).sum(-1)
    return np.asarray(counts[targets.valid[:, :, 0]].cpu())


def counts_of_model(
    model: DrafterModel, vocabulary: Vocabulary, texts: Iterable[Anchored], widths: Sequence[int]
) -> Iterator[dict[int, Ints]]:
    """Of each text, by width: drafts accepted at each of its anchors."""
    for text, reading, anchors in texts:
        parts: dict[int, list[Ints]] = {width: [] for width in widths}
        for first in range(0, len(anchors), _AT_ONCE):
            some = np.asarray(anchors[first : first + _AT_ONCE], np.int64)
            batch = make_batch([text], [reading], [some], max(widths) + 1).to(vocabulary.device)
            for width in widths:
                parts[width].append(accepted_drafts(model, vocabulary, batch, width))
        yield {width: np.concatenate(counts) for width, counts in parts.items()}


def of_model(
    model: DrafterModel, vocabulary: Vocabulary, texts: Iterable[Anchored], widths: Sequence[int]
) -> list[Acceptance]:
    """A drafter's, at every width."""
    found = list(counts_of_model(model, vocabulary, texts, widths))
    return [Acceptance.of(np.concatenate([one[w] for one in found]), w) for w in widths]


def of_ngram(texts: Iterable[Anchored], widths: Sequence[int]) -> list[Acceptance]:
    """A drafter's that repeats what followed the same words before, at every width."""
    counts = ngram.accepted_drafts(texts, max(widths))
    return [Acceptance.of(counts.clip(max=width), width) for width in widths]


def blocks_of(counts: Ints) -> Ints:
    """[n_steps] drafts accepted in each step of a greedy answer.

    Args:
        counts: drafts accepted at each of its tokens but the last, had it been the anchor.
    """
    at, steps = 0, []
    while at < len(counts):
        steps.append(int(counts[at]))
        at += steps[-1] + 1
    return np.array(steps, np.int64)

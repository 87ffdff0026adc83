"""From conversations to batches: random anchors, the features before them, the verifier's word."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .capture import Reading
from .conversations import Conversation, batches
from .loss import Targets

Read = Callable[[Conversation], Reading]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Blocks of some texts.

    Attributes:
        features: [B, T, n_features] F32, zeros behind the end of a text.
        anchors: [B, N] positions.
        anchor_tokens: [B, N].
        targets: of the S - 1 positions after each anchor; ids are the verifier's, not yet rows.
    """

    features: Tensor
    anchors: Tensor
    anchor_tokens: Tensor
    targets: Targets

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        t = self.targets
        return Batch(
            self.features.to(device),
            self.anchors.to(device),
            self.anchor_tokens.to(device),
            Targets(t.ids.to(device), t.probs.to(device), t.valid.to(device)),
        )


def anchors_of(conversation: Conversation, n: int, random: np.random.Generator | None) -> Ints:
    """Positions of the answer that have a successor: n random ones, or all of them in order.

    A session drafts after every token of an answer, its first one included, and after no other.
    """
    positions = np.arange(conversation.start, len(conversation.tokens) - 1)
    if random is None:
        return positions
    return np.sort(random.permutation(positions)[:n])


def make_batch(
    conversations: Sequence[Conversation],
    readings: Sequence[Reading],
    anchors: Sequence[Ints],
    block_size: int,
) -> Batch:
    """Texts of different lengths and numbers of anchors, padded."""
    n_blocks = max(map(len, anchors))
    # A block sees what is before its anchor: no later features are needed.
    n_context = max(int(own[-1]) for own in anchors)
    features = np.zeros((len(readings), n_context, readings[0].features.shape[1]), np.float32)
    at = np.zeros((len(readings), n_blocks), np.int64)
    tokens = np.zeros_like(at)
    parts = []
    for i, (conversation, reading, own) in enumerate(
        zip(conversations, readings, anchors, strict=True)
    ):
        n = min(n_context, len(reading.features))
        features[i, :n] = reading.features[:n]
        at[i, : len(own)] = own
        tokens[i, : len(own)] = np.asarray(conversation.tokens)[own]
        parts.append(_targets(reading, own, n_blocks, block_size, len(conversation.tokens)))
    ids, probs, valid = (torch.from_numpy(np.stack(column)) for column in zip(*parts, strict=True))
    return Batch(
        torch.from_numpy(features),
        torch.from_numpy(at),
        torch.from_numpy(tokens),
        Targets(ids, probs, valid),
    )


def _targets(
    reading: Reading, anchors: Ints, n_blocks: int, block_size: int, n_tokens: int
) -> tuple[Ints, npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """ids and probs [n_blocks, S - 1, k], valid [n_blocks, S - 1]; padding blocks are not valid."""
    # Row k of a block stands at anchor + k + 1; what belongs there is said by the token before it.
    places = anchors[:, None] + np.arange(block_size - 1)
    valid = np.zeros((n_blocks, block_size - 1), np.bool_)
    valid[: len(anchors)] = places + 1 < n_tokens
    places = np.minimum(places, n_tokens - 1)
    k = reading.ids.shape[1]
    ids = np.zeros((n_blocks, block_size - 1, k), np.int64)
    probs = np.zeros(ids.shape, np.float32)
    ids[: len(anchors)] = reading.ids[places]
    probs[: len(anchors)] = np.exp(reading.log_probs[places])
    return ids, probs, valid


class Examples:
    """Batches of a corpus, the same for a seed and a step whatever ran before.

    Args:
        read: gives a conversation's reading, from wherever it is at hand.
        noise: added to features, uniform in +- noise: it helps where there is little text.
        seed: of order, anchors and noise.
    """

    def __init__(
        self,
        conversations: Sequence[Conversation],
        read: Read,
        *,
        batch_size: int,
        n_blocks: int,
        block_size: int,
        noise: float,
        seed: int,
    ) -> None:
        self._conversations = conversations
        self._read = read
        self._size = batch_size
        self._n_blocks = n_blocks
        self._block_size = block_size
        self._noise = noise
        self._seed = seed
        self._lengths = [len(conversation.tokens) for conversation in conversations]
        self._epoch: tuple[int, list[list[int]]] | None = None

    @property
    def steps_an_epoch(self) -> int:
        """Batches in which every conversation comes once."""
        return len(self._conversations) // self._size

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """A step's batch, or the part of it that is ``rank``'s."""
        indices = self._indices(step)[rank::world]
        chosen, readings, anchors = [], [], []
        for i in indices:
            # Drawn for the text, so that it does not matter which process has it.
            random = np.random.default_rng((self._seed, step, i))
            conversation = self._conversations[i]
            chosen.append(conversation)
            anchors.append(anchors_of(conversation, self._n_blocks, random))
            readings.append(self._noisy(self._read(conversation), random))
        return make_batch(chosen, readings, anchors, self._block_size)

    def _noisy(self, reading: Reading, random: np.random.Generator) -> Reading:
        noise = random.random(reading.features.shape, np.float32) * 2 - 1
        return replace(reading, features=reading.features + np.float32(self._noise) * noise)

    def _indices(self, step: int) -> list[int]:
        epoch, place = divmod(step, self.steps_an_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, batches(self._lengths, self._size, epoch, self._seed))
        return self._epoch[1][place]


def held_out_batches(
    conversations: Iterable[Conversation], read: Read, block_size: int, most: int
) -> Iterable[Batch]:
    """A batch a text, with anchors evenly over its answer, ``most`` at most."""
    for conversation in conversations:
        positions = anchors_of(conversation, 0, None)
        step = max(1, len(positions) // most)
        yield make_batch(
            [conversation], [read(conversation)], [positions[::step][:most]], block_size
        )

"""Conversations as tokens: what is trained on. One JSON object a line, resumable as it grows."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dflash_local.errors import DFlashError

_BUCKETS = 1 << 32


@dataclass(frozen=True)
class Conversation:
    """A prompt as the verifier's chat template renders it, and the verifier's answer.

    Attributes:
        tokens: ids of all of it.
        start: index of the answer's first token; drafts are trained from there on.
    """

    tokens: tuple[int, ...]
    start: int

    @property
    def prompt(self) -> tuple[int, ...]:
        """What was asked."""
        return self.tokens[: self.start]

    @property
    def key(self) -> str:
        """Tells it from others by its prompt: answers to one prompt stay on one side of a split."""
        return hashlib.sha256(json.dumps(self.prompt).encode()).hexdigest()


def split(
    conversations: Sequence[Conversation], share: float
) -> tuple[list[Conversation], list[Conversation]]:
    """Those to train on, and a share that never is: one prompt at least, always the same."""
    keys = {conversation: conversation.key for conversation in conversations}
    held_out = {key for key in keys.values() if int(key[:8], 16) < share * _BUCKETS}
    held_out = held_out or set(sorted(keys.values())[:1])
    train = [text for text in conversations if keys[text] not in held_out]
    return train, [text for text in conversations if keys[text] in held_out]


def read_conversations(path: Path) -> list[Conversation]:
    """All conversations of a file (.jsonl or .jsonl.gz).

    Raises:
        DFlashError: names the line that is none.
    """
    opened: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as lines:
            return list(parse(path, lines))
    except (OSError, UnicodeDecodeError) as error:
        raise DFlashError(f"{path} cannot be read: {error}") from error


def parse(path: Path, lines: Iterable[str]) -> Iterator[Conversation]:
    """Conversations in lines of a file; raises DFlashError with the line that is none."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            tokens, start = tuple(fields["tokens"]), fields["start"]
        except (ValueError, TypeError, KeyError) as error:
            raise DFlashError(f"{path}, line {number}: no conversation ({error!r})") from error
        good = all(type(token) is int and token >= 0 for token in tokens) and type(start) is int
        if not good or not 0 < start < len(tokens):
            raise DFlashError(
                f"{path}, line {number}: expected token ids and a `start` inside them, "
                f"found {len(tokens)} tokens and start {start!r}"
            )
        yield Conversation(tokens, start)


def to_line(conversation: Conversation) -> str:
    """As it stands in a file."""
    return json.dumps({"tokens": conversation.tokens, "start": conversation.start}) + "\n"


def cut(conversation: Conversation, n_tokens: int) -> Conversation | None:
    """At most so many tokens from its beginning; None where no answer would be left."""
    tokens = conversation.tokens[:n_tokens]
    return (
        Conversation(tokens, conversation.start) if conversation.start + 1 < len(tokens) else None
    )


def batches(lengths: Sequence[int], size: int, epoch: int, seed: int) -> list[list[int]]:
    """Indices in batches of ``size``, texts of like length together, in an order of the epoch.

    What does not fill a batch is left out of the epoch; the next one draws anew.
    """
    import numpy as np

    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(lengths))
    window = 32 * size  # long enough to find neighbours, short enough to stay a random order
    grouped = [
        index
        for first in range(0, len(order), window)
        for index in sorted(order[first : first + window], key=lambda i: lengths[i])
    ]
    whole = len(grouped) // size * size
    made = [[int(i) for i in grouped[at : at + size]] for at in range(0, whole, size)]
    return [made[i] for i in random.permutation(len(made))]

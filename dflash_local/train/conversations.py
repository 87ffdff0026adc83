"""Conversations as tokens: what is trained on. One JSON object a line, resumable as it grows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dflash_local.errors import DFlashError
from dflash_local.rows.reader import read_rows

from .dialogues import groups

_BUCKETS = 1 << 32


@dataclass(frozen=True)
class Conversation:
    """A prompt as the verifier's chat template renders it, and the verifier's answer.

    Attributes:
        tokens: ids of all of it.
        start: index of the answer's first token; drafts are trained from there on.
        dialogue: the same for all turns of a dialogue; empty where nobody knows.
        ended: whether the answer came to its end; None where nobody knows.
    """

    tokens: tuple[int, ...]
    start: int
    dialogue: str = field(default="", compare=False)
    ended: bool | None = field(default=None, compare=False)

    @property
    def prompt(self) -> tuple[int, ...]:
        """What was asked."""
        return self.tokens[: self.start]

    @property
    def key(self) -> str:
        """Tells it from others by its prompt."""
        return hashlib.sha256(json.dumps(self.prompt).encode()).hexdigest()


@dataclass(frozen=True)
class Unanswered:
    """A prompt that has no answer, and why."""

    reason: str
    prompt: int | None = None


def split(
    conversations: Sequence[Conversation], share: float, together: Sequence[int] | None = None
) -> tuple[list[Conversation], list[Conversation]]:
    """Those to train on, and a share that never is: one dialogue at least, always the same.

    All turns of a dialogue stay on one side, and so do dialogues that nearly say the same.

    Args:
        together: their ``dialogue_groups``, where they are known.
    """
    together = dialogue_groups(conversations) if together is None else together
    sizes: dict[int, int] = {}
    keys: dict[int, tuple[int, str]] = {}
    for text, group in zip(conversations, together, strict=True):
        sizes[group] = sizes.get(group, 0) + 1
        key = (text.start, text.key)  # of the shortest prompt: turns that follow change nothing
        keys[group] = min(keys.get(group, key), key)
    held_out = _held_out(sizes, {group: key for group, (_, key) in keys.items()}, share)
    sides: tuple[list[Conversation], list[Conversation]] = ([], [])
    for text, group in zip(conversations, together, strict=True):
        sides[group in held_out].append(text)
    return sides


def dialogue_groups(
    conversations: Sequence[Conversation],
    decode: Callable[[Sequence[int]], str] | None = None,
) -> list[int]:
    """A number for each, the same for those of one dialogue and for near-duplicates.

    Args:
        decode: gives the text of a prompt, by which near-duplicates are told; else by tokens.
    """
    prompts = [text.prompt for text in conversations]
    names = [text.dialogue for text in conversations]
    return groups(prompts, names, None if decode is None else [decode(p) for p in prompts])


def _held_out(sizes: dict[int, int], keys: dict[int, str], share: float) -> set[int]:
    """Groups, drawn by their keys; one larger than the share is trained on, where others are."""
    room = max(share * sum(sizes.values()), min(sizes.values(), default=0))
    small = sorted((keys[group], group) for group, size in sizes.items() if size <= room)
    drawn = {group for key, group in small if int(key[:8], 16) < share * _BUCKETS}
    return drawn or {group for _, group in small[:1]}


def read_conversations(path: Path) -> list[Conversation]:
    """All conversations of a file, see ``read_rows``.

    Raises:
        DFlashError: names the line that is none.
    """
    found = (parse_row(path, row.where, row.value, row.problem) for row in read_rows(path))
    return [one for one in found if isinstance(one, Conversation)]


def parse(path: Path, lines: Iterable[str]) -> Iterator[Conversation | Unanswered]:
    """Conversations in lines of a file of ours; raises DFlashError with the line that is none."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row, problem = json.loads(line), ""
        except ValueError as error:
            row, problem = None, str(error)
        yield parse_row(path, f"line {number}", row, problem)


def parse_row(path: Path, where: str, row: Any, problem: str) -> Conversation | Unanswered:
    """The conversation in a row; raises DFlashError where it holds none."""
    if not problem and isinstance(row, dict) and isinstance(row.get("left_out"), str):
        return Unanswered(row["left_out"], row.get("prompt"))
    try:
        tokens, start = tuple(row["tokens"]), row["start"]
    except (TypeError, KeyError) as error:
        raise DFlashError(f"{path}, {where}: no conversation ({problem or repr(error)})") from error
    good = all(type(token) is int and token >= 0 for token in tokens) and type(start) is int
    if not good or not 0 < start < len(tokens):
        raise DFlashError(
            f"{path}, {where}: expected token ids and a `start` inside them, "
            f"found {len(tokens)} tokens and start {start!r}"
        )
    ended = row.get("ended")
    name = str(row.get("dialogue", ""))
    return Conversation(tokens, start, name, ended if isinstance(ended, bool) else None)


def to_line(text: Conversation | Unanswered, prompt: int | None = None) -> str:
    """As it stands in a file.

    Args:
        prompt: the number of what was asked, where answers come in another order.
    """
    fields: dict[str, Any]
    if isinstance(text, Unanswered):
        fields = {"left_out": text.reason}
    else:
        fields = {"tokens": text.tokens, "start": text.start}
        fields |= {"dialogue": text.dialogue} if text.dialogue else {}
        fields |= {"ended": text.ended} if text.ended is not None else {}
    return json.dumps(fields | ({} if prompt is None else {"prompt": prompt})) + "\n"


def cut(conversation: Conversation, n_tokens: int) -> Conversation | None:
    """At most so many tokens from its beginning; None where no answer would be left."""
    if len(conversation.tokens) > n_tokens:
        tokens = conversation.tokens[:n_tokens]
        conversation = replace(conversation, tokens=tokens, ended=False)
    return conversation if conversation.start + 1 < len(conversation.tokens) else None


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

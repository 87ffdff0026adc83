"""From recorded answers to what is learned from, and what is held out for the replay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dflash_local.errors import DFlashError
from dflash_local.files.fingerprint import fingerprint
from dflash_local.record.reading import Record
from dflash_local.train.conversations import Conversation, cut, dialogue_groups, split
from dflash_local.train.verifiers.gguf_template import Template

from .options import LearnOptions
from .replay import FEWEST

#: Answers of the record that are looked at, the newest: others may be of other verifiers.
MOST_READ = 8000
_MOST = 4000  # answers that are learned from: the newest
_MOST_REPLAYED = 100
#: Answers that are learned from at least: a few batches.
FEWEST_LEARNED = 20


@dataclass(frozen=True)
class Learned:
    """Answers of one verifier, each once.

    Attributes:
        texts: to be learned from.
        held_out: to be replayed; never learned from, nor is a turn of one of their dialogues.
        dialogues: of ``held_out``, a number each.
        n_recorded: answers of the record that were looked at, the newest.
        n_others: of them, those of other verifiers.
        n_spoiled: lines of the record that could not be read.
    """

    texts: list[Conversation]
    held_out: list[Conversation]
    dialogues: list[int]
    n_recorded: int
    n_others: int
    n_spoiled: int


def texts_of(options: LearnOptions, record: Record, verifier: Path) -> Learned:
    """The newest answers of a verifier.

    Raises:
        DFlashError: there are too few of them.
    """
    own = fingerprint(verifier)
    mine = [one for one in record.answers if record.sources[one.source].verifier_id == own]
    found = [Conversation(one.tokens, one.start, ended=one.ended) for one in mine]
    texts = list(dict.fromkeys(_cut(found, options.length)))[-_MOST:]
    together = dialogue_groups(texts, Template(verifier).decode) if texts else []
    learned, held_out = _apart(texts, together, options.replayed)
    group_of = dict(zip(texts, together, strict=True))
    dialogues = [group_of[text] for text in held_out]
    n_others = len(record.answers) - len(mine)
    if len(set(dialogues)) < FEWEST or len(learned) < FEWEST_LEARNED:
        raise DFlashError(
            f"{options.folder}: {len(texts)} different answers of {verifier.name} in "
            f"{len(set(together))} dialogues are recorded; expected enough to learn from "
            f"{FEWEST_LEARNED} and to replay {FEWEST} dialogues. Go on recording"
            + (f" ({n_others} answers are of other verifiers)" if n_others else "")
        )
    n = len(record.answers)
    return Learned(learned, held_out, dialogues, n, n_others, record.n_spoiled)


def _apart(
    texts: list[Conversation], together: list[int], share: float
) -> tuple[list[Conversation], list[Conversation]]:
    """What is learned from and what is replayed; of few answers a larger share is replayed.

    A smaller share is always a part of a larger one: what an earlier learning has seen is not
    replayed later, when there are more answers.
    """
    share = min(share, _MOST_REPLAYED / max(1, len(texts)))
    group_of = dict(zip(texts, together, strict=True))
    learned, held_out = split(texts, share, together)
    for larger in (1.25 * share, 1.5 * share, 2 * share):
        if len({group_of[text] for text in held_out}) < FEWEST:
            learned, held_out = split(texts, larger, together)
    return learned, held_out


def _cut(texts: list[Conversation], n_tokens: int) -> Iterator[Conversation]:
    for text in texts:
        part = cut(text, n_tokens)
        if part is not None:
            yield part

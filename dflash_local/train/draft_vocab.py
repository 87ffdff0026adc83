"""Which of the verifier's tokens the drafter's GGUF can propose: by default those of the texts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from dflash_local.files.gguf_header import GGUFHeader

from .conversations import Conversation

#: Texts with more of the vocabulary than that get the whole head. A GGUF with fewer rows has to
#: carry them, where it borrows the verifier's whole head; two thirds of the rows saved no time
#: (docs/convert.md), one third a tenth of it.
LARGEST_SHARE = 0.5
#: A file of a checkpoint's folder: tokens that a GGUF of a drafter that goes on from it must keep.
KEPT_TOKENS = "kept-tokens.json"


def token_counts(texts: Sequence[Conversation], n_vocab: int) -> npt.NDArray[np.int64]:
    """[n_vocab] what a row of the head is worth for each token: how often answers hold it, and one
    more where any text does, so that the tokens of prompts come right behind."""
    said = Counter(token for text in texts for token in text.tokens[text.start :])
    said.update({token for text in texts for token in text.tokens})
    counts = np.zeros(n_vocab, np.int64)
    counts[list(said)] = list(said.values())
    return counts


def head_size(
    wanted: int | Literal["all"] | None, counts: npt.NDArray[np.int64], ends: Collection[int]
) -> int | None:
    """Rows of the GGUF's head; None: all of them, as the verifier's.

    Args:
        wanted: as in ``TrainOptions.draft_vocab``.
        counts: see ``token_counts``.
        ends: tokens that end an answer: they are always kept.
    """
    if isinstance(wanted, int):
        return wanted if wanted < len(counts) else None
    of_texts = len({*np.flatnonzero(counts).tolist(), *ends})
    return None if wanted == "all" or of_texts > LARGEST_SHARE * len(counts) else of_texts


def kept_tokens(init: Path | None) -> list[int]:
    """The tokens that a drafter made from this checkpoint's folder must not lose."""
    file = None if init is None else init / KEPT_TOKENS
    if file is None or not file.is_file():
        return []
    return [int(token) for token in json.loads(file.read_text(encoding="utf-8"))]


def proposed_tokens(drafter: Path) -> list[int] | None:
    """The tokens of the head of a drafter's GGUF, ascending; None: all of the verifier's."""
    header = GGUFHeader(drafter)
    return [int(token) for token in header.i64("d2t")] if "d2t" in header.tensors else None

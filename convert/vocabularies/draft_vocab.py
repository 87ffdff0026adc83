"""A smaller draft vocabulary: only the tokens that a drafter can usefully propose.

The head, one row a token, is often the largest part of a draft. Where its rows are few, `d2t` names
their tokens, and libllama gives all others a logit of minus infinity. The verifier's vocabulary
stays whole, and with it the answers: a token that is not proposed comes as the correction.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType

from dflash_local.errors import DFlashError

from ..layouts.drafter import DrafterConfig
from ..reading.paths import expanded
from ..reading.safetensors_file import Array
from ..verifiers.tokenizer import Tokenizer
from ..verifiers.verifier import Verifier
from ..verifiers.verifier_head import NAME as HEAD
from ..verifiers.verifier_head import verifier_head
from ..writing.encode import TOKEN_IDS, OutType
from ..writing.writer import OutputTensor, Progress
from .corpus import count_tokens
from .frequencies import Counts, read_frequencies

EMBEDDING = "token_embd.weight"
# Tensors with a row for each token that can be proposed. A DSpark drafter's markov_w1 and a DFlash2
# drafter's codebooks are looked up by the verifier's ids: they stay whole.
BY_DRAFT_TOKEN = (HEAD, "markov_w2.weight")

Ids = npt.NDArray[np.int64]
StrPath = str | os.PathLike[str]


@dataclass(frozen=True)
class VocabularyChoice:
    """What the user asked for.

    Attributes:
        n_tokens: tokens to keep.
        frequencies: file of counts, see ``frequencies``.
        corpus: file of text to count, see ``corpus``. One of the two is None.
    """

    n_tokens: int
    frequencies: Path | None
    corpus: Path | None


@dataclass(frozen=True)
class ReducedVocabulary:
    """A drafter's tensors with a part of the rows.

    Attributes:
        coverage: share of the tokens counted that are among those kept.
        warnings: what the user should know.
    """

    tensors: list[OutputTensor]
    coverage: float
    warnings: tuple[str, ...]


def vocabulary_choice(
    n_tokens: int | None, frequencies: StrPath | None, corpus: StrPath | None
) -> VocabularyChoice | None:
    """The three parameters of a conversion, or None where the vocabulary stays whole.

    Raises:
        DFlashError: they do not go together.
    """
    given = [path for path in (frequencies, corpus) if path is not None]
    if n_tokens is None:
        if given:
            raise DFlashError(
                f"{given[0]} is for a smaller draft vocabulary: say how many tokens to keep "
                "(--draft-vocab N)"
            )
        return None
    if len(given) != 1:
        raise DFlashError(
            f"draft vocabulary of {n_tokens} tokens: found {'both' if given else 'neither'} of "
            "frequencies and corpus; expected a file of counts (--frequencies) or text like the "
            "verifier's answers (--corpus), to tell which tokens are worth keeping"
        )
    return VocabularyChoice(
        n_tokens,
        None if frequencies is None else expanded(frequencies),
        None if corpus is None else expanded(corpus),
    )


def reduce_vocabulary(
    choice: VocabularyChoice,
    config: DrafterConfig,
    tensors: list[OutputTensor],
    verifier: Verifier,
    wanted: OutType,
    progress: Progress | None = None,
) -> ReducedVocabulary:
    """Keep the rows of the tokens that end an answer, and of those counted most often.

    A drafter without a head of its own gets the verifier's rows: as stored there, or in the
    type wanted if that is smaller.

    Args:
        progress: called with the bytes of the corpus read and in all.

    Raises:
        DFlashError: the number of tokens is out of range, or the counts or the corpus are no good.
        ModelError: the verifier's head cannot be read.
    """
    by_name = {tensor.name: tensor for tensor in tensors}
    if HEAD not in by_name:
        by_name[HEAD] = _missing_head(by_name, verifier, wanted)
    tokens = _proposed(by_name, verifier)
    with Tokenizer(verifier.path) as tokenizer:
        ends = np.isin(tokens, tokenizer.end_tokens())
        _check_size(choice.n_tokens, len(tokens), _least(config, ends))
        counts = _counts(choice, tokenizer, progress)
    rows = most_frequent(counts[tokens], ends, choice.n_tokens)
    for name in BY_DRAFT_TOKEN:
        if name in by_name:
            by_name[name] = _with_rows(by_name[name], rows)
    by_name[TOKEN_IDS] = _d2t(tokens[rows])
    kept = counts[tokens[rows]]
    n_filled = int(np.count_nonzero((kept == 0) & ~ends[rows]))
    return ReducedVocabulary(
        tensors=list(by_name.values()),
        coverage=float(kept.sum() / counts.sum()),
        warnings=_warnings(choice, n_filled),
    )


def most_frequent(counts: Counts, always: npt.NDArray[np.bool_], n: int) -> Ids:
    """The indices, ascending, of ``n`` entries: those to keep always, then by count, then first."""
    # lexsort is stable: of equal counts the lowest ids come first, in a vocabulary of merges those
    # of the most frequent.
    order = np.lexsort((-counts, ~always))
    return np.sort(order[:n])


def _missing_head(
    tensors: dict[str, OutputTensor], verifier: Verifier, wanted: OutType
) -> OutputTensor:
    own = tensors.get(EMBEDDING)  # is the head where it is the only one
    return replace(own, name=HEAD) if own is not None else verifier_head(verifier, wanted)


def _proposed(tensors: dict[str, OutputTensor], verifier: Verifier) -> Ids:
    """The token of each row of the head; rows behind the last token are padding."""
    if TOKEN_IDS not in tensors:
        return np.arange(min(tensors[HEAD].shape[0], verifier.n_vocab))
    return np.concatenate([np.asarray(piece, np.int64) for piece in tensors[TOKEN_IDS].pieces()])


def _least(config: DrafterConfig, ends: npt.NDArray[np.bool_]) -> int:
    candidates = config.selector.top_k if config.selector is not None else 1
    return max(int(ends.sum()), candidates)


def _check_size(n: int, n_all: int, least: int) -> None:
    if not least <= n <= n_all:
        raise DFlashError(
            f"draft vocabulary: found {n} tokens, expected from {least} to the {n_all} that the "
            "drafter can propose"
        )


def _counts(choice: VocabularyChoice, tokenizer: Tokenizer, progress: Progress | None) -> Counts:
    if choice.frequencies is not None:
        return read_frequencies(choice.frequencies, tokenizer.n_vocab)
    assert choice.corpus is not None
    return count_tokens(choice.corpus, tokenizer, progress)


def _with_rows(tensor: OutputTensor, rows: Ids) -> OutputTensor:
    return replace(
        tensor, shape=(len(rows), *tensor.shape[1:]), pieces=lambda: _picked(tensor.pieces(), rows)
    )


def _picked(pieces: Iterable[Array], rows: Ids) -> Iterator[Array]:
    """Some rows, ascending, of a tensor that comes in pieces."""
    start = 0
    for piece in pieces:
        first, last = np.searchsorted(rows, (start, start + len(piece)))
        if first < last:
            yield piece[rows[first:last] - start]
        start += len(piece)


def _d2t(tokens: Ids) -> OutputTensor:
    return OutputTensor(TOKEN_IDS, tokens.shape, GGMLQuantizationType.I64, lambda: [tokens])


def _warnings(choice: VocabularyChoice, n_filled: int) -> tuple[str, ...]:
    if not n_filled:
        return ()
    return (
        f"{choice.frequencies or choice.corpus} has too few different tokens for a draft "
        f"vocabulary of {choice.n_tokens}: the {n_filled} lowest ids that it lacks fill it up",
    )

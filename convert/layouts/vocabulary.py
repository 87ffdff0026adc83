"""A drafter's own embedding and head, and the map of a reduced vocabulary."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..reading.fields import Fields
from ..reading.safetensors_file import StoredTensor
from ..reading.source import Source
from .drafter import DrafterConfig
from .names import Expected, find

EMBEDDING, HEAD, DRAFT_TO_TARGET, TARGET_TO_DRAFT = (
    "embed_tokens.weight",
    "lm_head.weight",
    "d2t",
    "t2d",
)
_ID_TYPES = {"I64": "<i8", "I32": "<i4"}
_FLAG_TYPES = {"BOOL": "?", "U8": "u1"}


def vocabulary_tensors(config: DrafterConfig, source: Source) -> list[Expected]:
    """The drafter's own embedding and head, where it has them; else the verifier's serve."""
    n_vocab, n_draft = config.n_vocab or 0, config.n_vocab_draft
    borrowed = source.config.get("has_embed_tokens") is False
    # As upstream: a DSpark head that repeats the embedding is left out, libllama takes the latter.
    repeated = config.markov is not None and n_draft is None and bool(config.tied)
    shape = (n_vocab, config.n_embd)
    tensors = [
        Expected(EMBEDDING, None if borrowed else "token_embd.weight", shape),
        Expected(
            HEAD,
            None if repeated and not borrowed else "output.weight",
            (n_draft or n_vocab, config.n_embd),
        ),
        Expected(DRAFT_TO_TARGET, None, (n_draft or n_vocab,), dtypes=tuple(_ID_TYPES)),
        Expected(TARGET_TO_DRAFT, None, (n_vocab,), dtypes=tuple(_FLAG_TYPES)),
    ]
    required = () if n_draft is None else (HEAD, DRAFT_TO_TARGET)
    return [
        tensor
        for tensor in tensors
        if tensor.source in required or find(source, tensor.source) is not None
    ]


def stored_rows(source: Source) -> int | None:
    """Vocabulary rows of the checkpoint's own embedding, or None where it has none."""
    embedding = find(source, EMBEDDING)
    return embedding.shape[0] if embedding is not None and embedding.shape else None


def draft_rows(source: Source, draft: Fields, n_vocab: int | None) -> int | None:
    """Rows of a reduced head, or None where it is complete."""
    size = draft.integer("draft_vocab_size", 0)
    if n_vocab is not None and size > n_vocab:
        draft.problems.append(
            f"`draft_vocab_size`: found {size}, expected at most the vocabulary's {n_vocab}"
        )
    stored = find(source, DRAFT_TO_TARGET)
    if stored is not None and stored.shape:
        return size or stored.shape[0]
    return size if size not in (0, n_vocab) else None


def heads_are_equal(source: Source, flag: bool | None) -> bool | None:
    """Whether embedding and head are one; where both are stored their bytes tell, not the flag."""
    embedding, head = find(source, EMBEDDING), find(source, HEAD)
    if embedding is None or head is None:
        return flag
    if (embedding.shape, embedding.dtype) != (head.shape, head.dtype):
        return False
    pairs = zip(embedding.pieces(), head.pieces(), strict=True)
    return all(np.array_equal(one, other) for one, other in pairs)


def draft_ids(source: Source) -> npt.NDArray[np.int64]:
    """The verifier's id of each row of the drafter's head; it is stored less the row's number."""
    stored = find(source, DRAFT_TO_TARGET)
    assert stored is not None
    offsets = np.asarray(_values(stored, _ID_TYPES[stored.dtype]), np.int64)
    return np.asarray(offsets + np.arange(len(offsets)), np.int64)


def draft_id_problems(config: DrafterConfig, source: Source) -> list[str]:
    """Whether the map of a reduced vocabulary can be right, one line a problem."""
    stored, flags = find(source, DRAFT_TO_TARGET), find(source, TARGET_TO_DRAFT)
    if stored is None or stored.dtype not in _ID_TYPES or len(stored.shape) != 1:
        return []
    ids, n_vocab = draft_ids(source), config.n_vocab or 0
    problems = []
    if len(ids) and (ids.min() < 0 or ids.max() >= n_vocab):
        wrong = int(ids[(ids < 0) | (ids >= n_vocab)][0])
        problems.append(f"tensor d2t: maps to token {wrong}, expected ids from 0 to {n_vocab - 1}")
    elif flags is not None and flags.dtype in _FLAG_TYPES and flags.shape == (n_vocab,):
        kept = np.flatnonzero(_values(flags, "u1"))
        if not np.array_equal(np.unique(ids), kept):
            problems.append("tensors d2t and t2d do not name the same tokens: damaged checkpoint")
    if (n_twice := len(ids) - len(np.unique(ids))) > 0:
        problems.append(f"tensor d2t: {n_twice} tokens occur twice, expected distinct ids")
    return problems


def _values(stored: StoredTensor, dtype: str) -> npt.NDArray[np.generic]:
    return np.fromfile(stored.path, dtype, stored.shape[0], offset=stored.offset)

"""What libllama drafts with a GGUF against the numpy forward pass, on the same features."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from dflash_local.files.layer_ids import layer_inputs
from dflash_local.runtime import seam
from dflash_local.runtime.llama import Llama

from ..reading.safetensors_file import Float32Array
from .forward import NumpyDrafter
from .forward_heads import Prediction, predict
from .forward_ops import softmax
from .forward_weights import CannotCheck

if TYPE_CHECKING:
    import os

N_BLOCKS = 3
MIN_TOKENS, MAX_TOKENS = 24, 256
TEXT = b"""\
The lighthouse keeper wrote the same three numbers every evening: the height of the tide, the \
hour of sunset, and how many ships had passed. On 14 March 1893 he counted 27 of them. "More than \
yesterday," he told his daughter, who was learning to add, "so what is 27 minus 19?" She thought \
about it for a while and answered: eight!

def count_ships(log):
    total = 0
    for day in log:
        if day["ships"] is not None:
            total += day["ships"]
    return total

Years later she turned his notes into a table, one row a day, and found that the busiest weeks \
came right after storms. The harbour had been closed, and everything that waited outside came in \
at once. She sent the table to the office in the capital, where somebody put it in a drawer.
"""


@dataclass(frozen=True)
class DraftAgreement:
    """How two ways to the same predictions agree.

    Attributes:
        error: of logits: root mean square of the differences, relative to how far logits spread;
            DFlash2: of the drafts' probabilities, root mean square of the differences.
        n_rows: predictions compared.
        n_same: of them, where both prefer the same token.
        confidence_error: DSpark: the largest difference of a confidence, 0 to 1; None without one.
    """

    error: float
    n_rows: int
    n_same: int
    confidence_error: float | None


def compare_drafts(
    reference: NumpyDrafter,
    drafter: str | os.PathLike[str],
    verifier: str | os.PathLike[str],
    token_ids: npt.NDArray[np.int64] | None = None,
    *,
    n_threads: int = 1,
) -> DraftAgreement:
    """Draft blocks of a fixed text in libllama, and compare their predictions.

    Args:
        reference: reads the features of the layers that its own config names.
        drafter: a GGUF, checked to fit the verifier's.
        token_ids: the token of each row of the head, where it knows a part of the vocabulary.

    Raises:
        CannotCheck: libllama drafts nothing on this verifier.
    """
    layers = layer_inputs(reference.config.target_layer_ids)
    with _loaded(drafter, verifier, n_threads) as llm:
        if llm.session is None or llm.session.drafter is None:
            raise CannotCheck(f"libllama cannot verify drafts on {verifier}: nothing is drafted")
        llm.width = llm.session.drafter.max_width
        blocks = list(_blocks(llm, llm.session, layers))
    # All rows at once: the head is the largest part, and read for each prediction.
    states = [reference.states(b.features, b.anchor, len(b.drafts)) for b in blocks]
    previous = [token for b in blocks for token in (b.anchor, *b.drafts[:-1])]
    prediction = predict(reference.config, reference.weights, np.concatenate(states), previous)
    return _agreement(blocks, prediction, token_ids)


@dataclass(frozen=True)
class _Block:
    """What libllama drafted, and from what.

    Attributes:
        features: [n, layers * n_embd] of the text before the anchor.
        logits: [drafts, n_vocab]; None with DFlash2, whose selector hides them.
        confidence: [drafts]; None where the drafter has none.
    """

    features: Float32Array
    anchor: int
    drafts: list[int]
    logits: Float32Array | None
    confidence: Float32Array | None


def _loaded(drafter: Any, verifier: Any, n_threads: int) -> Llama:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # about the pair: told by who checks it
        return Llama(
            verifier,
            drafter=drafter,
            width=0,
            n_ctx=2 * MAX_TOKENS,
            n_batch=2 * MAX_TOKENS,
            n_threads=n_threads,
            n_threads_batch=n_threads,
            # No rounding beside that of the weights and of what they are multiplied with.
            type_k=llama_cpp.GGML_TYPE_F32,
            type_v=llama_cpp.GGML_TYPE_F32,
        )


def _blocks(llm: Llama, session: Any, layers: Sequence[int]) -> Iterator[_Block]:
    tokens = llm.tokenize(TEXT)[:MAX_TOKENS]
    if len(tokens) < MIN_TOKENS:
        raise CannotCheck(f"the verifier's tokenizer makes {len(tokens)} tokens of a whole page")
    features = seam.read_features(llm, tokens, layers)
    for i in range(1, N_BLOCKS + 1):
        n = (len(tokens) - 1) * i // N_BLOCKS
        kept = session.keep_prefix(tokens[:n])
        session.extend(tokens[kept:n])
        session.anchor(tokens[n])
        draft = session.propose()
        selected = session.drafter.options.kind.name == "dflash2"
        rows = [] if selected else [session.draft_logits(i) for i in range(len(draft.tokens))]
        yield _Block(
            features[:n],
            tokens[n],
            draft.tokens,
            np.stack(rows) if rows else None,
            np.array(draft.confidence, np.float32) if draft.confidence else None,
        )
        session.discard()


def _agreement(
    ours: Sequence[_Block], theirs: Prediction, token_ids: npt.NDArray[np.int64] | None
) -> DraftAgreement:
    drafts = np.concatenate([block.drafts for block in ours])
    logits = [block.logits for block in ours if block.logits is not None]
    found = [block.confidence for block in ours if block.confidence is not None]
    confidence = np.concatenate(found) if found else None
    best = theirs.logits.argmax(-1)
    if logits:
        rows = np.concatenate(logits)
        rows = rows if token_ids is None else rows[:, token_ids]
        error = math.sqrt(np.square(rows - theirs.logits).mean() / theirs.logits.var(-1).mean())
    else:  # DFlash2: what it is sure of is the softmax of its candidates' scores
        expected = softmax(theirs.logits)[np.arange(len(drafts)), drafts]
        error = math.sqrt(np.square(expected - confidence).mean())
    sure = None
    if theirs.confidence is not None and confidence is not None:
        sure = float(np.abs(theirs.confidence - confidence).max())
    return DraftAgreement(
        error=error,
        n_rows=len(drafts),
        n_same=int((drafts == (best if token_ids is None else token_ids[best])).sum()),
        confidence_error=sure,
    )

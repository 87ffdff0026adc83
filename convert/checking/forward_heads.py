"""From a drafter's last hidden states to predictions: head, Markov chain, confidence, selector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..layouts.drafter import DrafterConfig
from ..reading.safetensors_file import Float32Array
from . import forward_ops as ops
from .forward_weights import HEAD, Weight


@dataclass(frozen=True)
class Prediction:
    """What the rows of a block predict.

    Attributes:
        logits: [rows, tokens the head knows]. DFlash2: the selector's scores of its candidates,
            -inf for all others.
        confidence: [rows], the head's estimate that the draft is right; None where there is none.
    """

    logits: Float32Array
    confidence: Float32Array | None


def predict(
    config: DrafterConfig,
    weights: Mapping[str, Weight],
    hidden: Float32Array,
    previous: Sequence[int],
) -> Prediction:
    """Predictions of the rows ``hidden`` [rows, n_embd] after the tokens ``previous`` [rows]."""
    logits = weights[HEAD].project(hidden)
    confidence = None
    if config.markov is not None:
        state = np.zeros((len(hidden), config.markov.rank), np.float32)
        if config.markov.trained:
            state = weights["markov_w1.weight"].rows(previous)
            logits += weights["markov_w2.weight"].project(state)
        confidence = _confidence(weights, hidden, state) if config.markov.confidence else None
    if config.selector is not None:
        logits = _transformed(config, logits)
        logits = _selected(config.selector.top_k, weights, hidden, logits, previous)
    return Prediction(logits, confidence)


def _confidence(
    weights: Mapping[str, Weight], hidden: Float32Array, state: Float32Array
) -> Float32Array:
    logit = weights["conf_proj.weight"].project(np.concatenate([hidden, state], -1))[:, 0]
    if "conf_proj.bias" in weights:
        logit = logit + weights["conf_proj.bias"].read()
    return ops.sigmoid(logit)


def _transformed(config: DrafterConfig, logits: Float32Array) -> Float32Array:
    logits = logits * np.float32(config.logit_scale or 1)
    if config.final_logit_softcapping is None:
        return logits
    cap = np.float32(config.final_logit_softcapping)
    return np.asarray(np.tanh(logits / cap) * cap, np.float32)


def _selected(
    k: int,
    weights: Mapping[str, Weight],
    hidden: Float32Array,
    logits: Float32Array,
    previous: Sequence[int],
) -> Float32Array:
    """DFlash2: the best k tokens of a row, each with its score after the token before."""
    best = np.argpartition(-logits, k - 1, axis=-1)[:, :k]
    state = weights["selector_predecessor.weight"].rows(previous)
    state = state * weights["selector_hidden.weight"].project(hidden)
    after = weights["selector_successor.weight"].rows(best.ravel().tolist())
    pairwise = np.einsum("nr,nkr->nk", state, after.reshape(*best.shape, -1))
    scores = np.full_like(logits, -np.inf)
    chosen = np.take_along_axis(logits, best, -1) + pairwise
    np.put_along_axis(scores, best, chosen, -1)
    return scores

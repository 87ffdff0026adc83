"""What a Hugging Face verifier makes of a text, by transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dflash_local.errors import BackendError
from dflash_local.train.capture import Reading

_ROWS = 128  # of logits in F32 at once: 80 MB with a vocabulary of 150,000


class HfCapturer:
    """A verifier that reads texts.

    Args:
        model: transformers', on the device that it computes on.
        target_layers: layers whose *inputs* are the features, which is what transformers calls
            ``hidden_states`` of the same index.
    """

    def __init__(self, model: Any, target_layers: Sequence[int]) -> None:
        self._model = model
        self._layers = list(target_layers)
        self.n_features = len(self._layers) * int(model.config.hidden_size)

    @torch.inference_mode()
    def read(self, tokens: Sequence[int], top_k: int) -> Reading:
        """The features of a text, and the ``top_k`` tokens to follow each of its tokens.

        Raises:
            BackendError: the verifier was closed.
        """
        if self._model is None:
            raise BackendError("the verifier was closed")
        ids = torch.tensor([list(tokens)], device=self._model.device)
        out = self._model(input_ids=ids, use_cache=False, output_hidden_states=True)
        features = torch.cat([out.hidden_states[layer][0].float() for layer in self._layers], -1)
        best = [_most_likely(rows, top_k) for rows in out.logits[0].split(_ROWS)]
        likely, log_probs = (torch.cat(parts).cpu().numpy() for parts in zip(*best, strict=True))
        return Reading(features.cpu().numpy(), likely.astype(np.int32), log_probs)

    def close(self) -> None:
        """Lets go of the model."""
        self._model = None


def _most_likely(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """ids and log-probabilities [n, k], best first."""
    values, ids = logits.float().topk(k)
    return ids, values - logits.float().logsumexp(-1, keepdim=True)

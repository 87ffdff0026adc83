"""A Hugging Face verifier's own answers, many at once, by transformers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from dflash_local.errors import ContextError, DFlashError
from dflash_local.train.answerer import Question, Sampling

from .hf_model import generation_settings
from .verifier import Progress


class HfAnswerer:
    """A verifier that answers ``n_slots`` prompts at once.

    Args:
        model: transformers', without settings of its own for generation.
        ends: tokens that end an answer.
        n_ctx: tokens of the longest prompt with its answer.
    """

    def __init__(self, model: Any, ends: Sequence[int], *, n_slots: int, n_ctx: int) -> None:
        self._model = model
        self._ends = list(ends)
        self._n_slots = n_slots
        self._n_ctx = n_ctx

    def answer(
        self, questions: Sequence[Question], progress: Progress = lambda *_: None
    ) -> list[list[int]]:
        """The answers, an end of generation included, in the order of the questions.

        The same questions give the same answers, whatever was asked before.

        Raises:
            DFlashError: a prompt without tokens.
            ContextError: a prompt for which there is no room.
        """
        answers: list[list[int]] = [[] for _ in questions]
        n_done = n_tokens = 0
        for batch in batches_alike(questions, self._n_slots):
            written = self._answer([questions[i] for i in batch])
            for index, tokens in zip(batch, written, strict=True):
                answers[index] = tokens
            n_done, n_tokens = n_done + len(batch), n_tokens + sum(map(len, written))
            progress(n_done, n_tokens)
        return answers

    @torch.inference_mode()
    def _answer(self, questions: Sequence[Question]) -> list[list[int]]:
        limits = [self._limit(question) for question in questions]
        width = max(len(question.tokens) for question in questions)
        rows = [[0] * (width - len(q.tokens)) + list(q.tokens) for q in questions]
        seen = [[0] * (width - len(q.tokens)) + [1] * len(q.tokens) for q in questions]
        device = self._model.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(questions[0].sampling.seed)
            out: Tensor = self._model.generate(
                torch.tensor(rows, device=device),
                attention_mask=torch.tensor(seen, device=device),
                generation_config=self._settings(questions[0].sampling, max(limits)),
            )
        written = out[:, width:].tolist()
        return [self._cut(row[:limit]) for row, limit in zip(written, limits, strict=True)]

    def _limit(self, question: Question) -> int:
        if not question.tokens:
            raise DFlashError("a prompt without tokens cannot be answered")
        room = self._n_ctx - len(question.tokens)
        if room <= 0:
            raise ContextError(
                f"a prompt of {len(question.tokens)} tokens, there is room for {self._n_ctx}"
            )
        return min(question.max_tokens, room)

    def _settings(self, sampling: Sampling, max_tokens: int) -> Any:
        drawn = {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
        }
        return generation_settings(
            max_new_tokens=max_tokens,
            eos_token_id=self._ends or None,
            pad_token_id=self._ends[0] if self._ends else 0,
            **(drawn if sampling.temperature > 0 else {"do_sample": False}),
        )

    def _cut(self, row: list[int]) -> list[int]:
        """Up to its end; padding is behind it."""
        at = next((i for i, token in enumerate(row) if token in self._ends), len(row))
        return row[: at + 1]


def batches_alike(questions: Sequence[Question], size: int) -> Iterator[list[int]]:
    """Indices of questions that are drawn alike, prompts of like length together."""
    alike = defaultdict(list)
    for index, question in enumerate(questions):
        sampling = question.sampling
        alike[sampling.temperature, sampling.top_k, sampling.top_p].append(index)
    for indices in alike.values():
        indices.sort(key=lambda i: len(questions[i].tokens))
        for first in range(0, len(indices), size):
            yield indices[first : first + size]

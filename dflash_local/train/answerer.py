"""The verifier's own answers, many at once: what its drafter is trained on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp

from dflash_local._api import _core
from dflash_local.errors import BackendError
from dflash_local.llama_log import captured_log
from dflash_local.runtime.drafter import address

from .capture import context_params, load_model
from .verifiers.verifier import Progress

# Decodes between two looks at signals and progress.
_STEPS = 16


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn; temperature 0 takes the most likely token each time."""

    temperature: float = 0.0
    top_k: int = 40
    top_p: float = 0.95
    seed: int = 1


@dataclass(frozen=True)
class Question:
    """A prompt as tokens, and how it is to be answered."""

    tokens: Sequence[int]
    sampling: Sampling
    max_tokens: int


class Answerer:
    """A verifier that answers ``n_slots`` prompts at once, plainly.

    Args:
        n_ctx: tokens of the longest prompt with its answer.

    Raises:
        BackendError: libllama cannot load it, or has no memory for so many.
    """

    def __init__(
        self, verifier: Path, *, n_slots: int, n_ctx: int, n_threads: int, n_gpu_layers: int = 0
    ) -> None:
        self.n_slots = n_slots
        with captured_log() as log, contextlib.ExitStack() as stack:
            model = load_model(verifier, n_gpu_layers)
            stack.callback(llama_cpp.llama_model_free, model)
            params = context_params(n_threads)
            params.n_seq_max = n_slots
            params.n_ctx = n_slots * n_ctx
            params.n_batch = params.n_ubatch = max(512, n_ctx, n_slots)
            params.n_outputs_max = n_slots
            context = llama_cpp.llama_init_from_model(model, params)
            if context is None:
                raise BackendError(
                    f"{verifier}: libllama could not make a context for {n_slots} answers of "
                    f"{n_ctx} tokens: {''.join(log).strip()}. Answer fewer at once"
                )
            stack.callback(llama_cpp.llama_free, context)
            core = _core.Answers(address(context), n_slots)
            self._stack = stack.pop_all()
        self._core: _core.Answers | None = core
        self._lock = threading.Lock()

    def answer(
        self, questions: Sequence[Question], progress: Progress = lambda *_: None
    ) -> list[list[int]]:
        """The answers, an end of generation included, in the order of the questions.

        The same questions give the same answers, whatever was asked before. Stopped by an exception
        or Ctrl-C, nothing is half-done: the next call begins anew.

        Raises:
            ContextError: a prompt for which there is no room.
            BackendError: the verifier was freed.
        """
        with self._lock:
            if self._core is None:
                raise BackendError("the verifier was closed")
            return _answer(self._core, self.n_slots, questions, progress)

    def close(self) -> None:
        """Frees the model; waits for the answers that are being written."""
        with self._lock, captured_log():
            self._core = None
            self._stack.close()

    def __enter__(self) -> Answerer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _answer(
    core: _core.Answers, n_slots: int, questions: Sequence[Question], progress: Progress
) -> list[list[int]]:
    answers: list[list[int]] = [[] for _ in questions]
    waiting = iter(enumerate(questions))
    busy: dict[int, tuple[int, _Chain]] = {}
    n_done = n_tokens = 0
    try:
        _fill(core, n_slots, busy, waiting)
        while busy:
            for slot in core.run(_STEPS):
                index, chain = busy.pop(slot)
                answers[index] = core.answer(slot)
                core.free(slot)
                chain.free()
                n_done, n_tokens = n_done + 1, n_tokens + len(answers[index])
            _fill(core, n_slots, busy, waiting)
            progress(n_done, n_tokens)
    finally:
        for slot, (_, chain) in busy.items():
            core.free(slot)
            chain.free()
    return answers


def _fill(
    core: _core.Answers,
    n_slots: int,
    busy: dict[int, tuple[int, _Chain]],
    waiting: Iterator[tuple[int, Question]],
) -> None:
    for slot in range(n_slots):
        if slot in busy:
            continue
        index, question = next(waiting, (None, None))
        if index is None or question is None:
            return
        chain = _Chain(question.sampling)
        busy[slot] = (index, chain)
        core.start(
            slot,
            list(question.tokens),
            question.max_tokens,
            sampler=chain.address,
            top_k=question.sampling.top_k,
        )


class _Chain:
    """libllama's samplers of one answer, after top-k; none at temperature 0."""

    def __init__(self, sampling: Sampling) -> None:
        self._chain: Any = None
        if sampling.temperature > 0:
            chain = llama_cpp.llama_sampler_chain_init(
                llama_cpp.llama_sampler_chain_default_params()
            )
            for sampler in (
                llama_cpp.llama_sampler_init_top_p(sampling.top_p, 1),
                llama_cpp.llama_sampler_init_temp(sampling.temperature),
                llama_cpp.llama_sampler_init_dist(sampling.seed),
            ):
                llama_cpp.llama_sampler_chain_add(chain, sampler)
            self._chain = chain

    @property
    def address(self) -> int:
        """For ``_core``; 0 for the most likely token."""
        return 0 if self._chain is None else address(self._chain)

    def free(self) -> None:
        """Frees the samplers."""
        if self._chain is not None:
            llama_cpp.llama_sampler_free(self._chain)
            self._chain = None

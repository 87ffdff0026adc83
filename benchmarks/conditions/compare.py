"""The same prompts by all engines in turn, answer by answer, in one condition."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
from busy.load import StrangersWork

from dflash_local import Llama

from .condition import Condition

PLAIN = "stock, plain"
ADAPTIVE = "adaptive"

_N_CTX = 1024


@dataclass(frozen=True)
class Setup:
    """What is compared."""

    verifier: Path
    drafter: Path
    widths: tuple[int, ...]
    threads: int
    max_tokens: int


@dataclass(frozen=True)
class Answer:
    """Tokens after the first, which waits for the prompt, and their seconds."""

    n_tokens: int
    seconds: float

    @property
    def seconds_a_token(self) -> float:
        return self.seconds / self.n_tokens


@dataclass(frozen=True)
class Compared:
    """Answers by engine, in their order, and the processors that others had meanwhile."""

    answers: dict[str, list[Answer]]
    others: float

    def seconds_a_token(self, engine: str, first: int = 1) -> float:
        """Of all answers from the one with that index on."""
        counted = self.answers[engine][first:]
        return sum(a.seconds for a in counted) / sum(a.n_tokens for a in counted)


def fixed(width: int) -> str:
    """What an engine of a fixed width is called."""
    return f"width {width}"


def compare(condition: Condition, setup: Setup, prompts: Sequence[list[int]]) -> Compared:
    """Adaptive widths begin without costs; halfway they are loaded anew, with what they kept."""
    others = StrangersWork()
    engines = [PLAIN, *map(fixed, setup.widths), ADAPTIVE]
    answers: dict[str, list[Answer]] = {engine: [] for engine in engines}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        models = _Models(condition, setup, folder, stack)
        stack.enter_context(condition.answering())
        for i, prompt in enumerate(prompts):
            if i == len(prompts) // 2:
                models.load_adaptive()
            # Each is the first as often as the others.
            for engine in engines[i % len(engines) :] + engines[: i % len(engines)]:
                answers[engine].append(_answer(models.of(engine), prompt, setup.max_tokens))
    return Compared(answers, others.processors())


class _Models:
    """Stock llama_cpp, ours for fixed widths, and ours with adaptive ones."""

    def __init__(self, condition: Condition, setup: Setup, folder: str, stack: ExitStack) -> None:
        self._setup = setup
        self._folder = folder
        self._stack = stack
        self._options: dict[str, Any] = {
            "n_ctx": _N_CTX,
            "n_threads": setup.threads,
            "n_threads_batch": setup.threads,
            **condition.options,
        }
        self._adaptive: Llama | None = None
        with condition.loading():
            self.load_adaptive()
        self._fixed = self._load(width=0)
        stock = llama_cpp.Llama(str(setup.verifier), verbose=False, **self._options)
        self._stock = stack.enter_context(closing(stock))

    def of(self, engine: str) -> llama_cpp.Llama:
        if engine in (PLAIN, ADAPTIVE):
            return self._stock if engine == PLAIN else self._adaptive
        self._fixed.width = int(engine.split()[1])
        return self._fixed

    def load_adaptive(self) -> None:
        """With the costs that an earlier one kept, if there was one."""
        if self._adaptive is not None:
            self._adaptive.close()
        with _cache(self._folder):
            self._adaptive = self._load(width=None)

    def _load(self, width: int | None) -> Llama:
        setup = self._setup
        return self._stack.enter_context(
            Llama(setup.verifier, drafter=setup.drafter, width=width, **self._options)
        )


@contextmanager
def _cache(folder: str) -> Iterator[None]:
    """Costs are kept in this folder."""
    name = "DFLASH_LOCAL_CACHE"
    before = os.environ.get(name)
    os.environ[name] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _answer(llm: llama_cpp.Llama, prompt: list[int], max_tokens: int) -> Answer:
    with closing(llm.generate(prompt, temp=0)) as stream:
        next(stream)
        n_tokens, start = 0, time.perf_counter()
        for token in stream:
            n_tokens += 1
            if n_tokens == max_tokens or token == llm.token_eos():
                break
        return Answer(n_tokens, time.perf_counter() - start)

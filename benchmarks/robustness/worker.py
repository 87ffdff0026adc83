"""A thread that does one random thing after the other, and what all of them share."""

from __future__ import annotations

import random
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .answers import Question, joined, questions, read_stocks_answers
from .model import Model
from .setup import Kind, Setup, kinds
from .watch import LIMIT, Watch

#: Models that are loaded at once.
_N_MODELS = 3


class Shared:
    """What the threads of a child have in common.

    Args:
        tell: sends a finding, "wrong" or "error", and a line about it to the parent process.
    """

    def __init__(self, setup: Setup, watch: Watch, tell: Callable[[str, str], None]) -> None:
        self.watch = watch
        self.tell = tell
        self.kinds = kinds(setup)
        self.answers = read_stocks_answers(setup.folder)
        self.models: list[Model | None] = [None] * _N_MODELS
        self.counts: Counter[str] = Counter()
        self.ends = 0.0
        self._lock = threading.Lock()

    def count(self, name: str) -> None:
        with self._lock:
            self.counts[name] += 1

    @property
    def over(self) -> bool:
        return time.monotonic() > self.ends


class Worker:
    """One thread's hands: its random choices, and the checks of what it gets."""

    def __init__(self, shared: Shared, rng: random.Random) -> None:
        self.shared = shared
        self.rng = rng

    def run(self, operations: dict[Callable[[Worker], None], float]) -> None:
        """Random operations, the heavier the more often, until the time is over."""
        while not self.shared.over:
            (operation,) = self.rng.choices(list(operations), list(operations.values()))
            try:
                operation(self)
            except Exception:
                self.error(traceback.format_exc())

    # ---- choices ---------------------------------------------------------------------------

    def model(self) -> Model:
        """One that is open; it may be closed by somebody else any time."""
        while True:
            slot = self.rng.randrange(_N_MODELS)
            model = self.shared.models[slot]
            if model is not None and not model.closed:
                return model
            self.fill(slot)

    def fill(self, slot: int) -> None:
        """Loads another model in place of the one there."""
        new = self.load()
        old, self.shared.models[slot] = self.shared.models[slot], new
        if old is not None and not old.closed:
            self.close(old)

    def load(self, kind: Kind | None = None) -> Model:
        kind = kind or self.rng.choice(self.shared.kinds)
        with self.during("load", f"a new {kind.name}"):
            return Model(kind, self.rng)

    def close(self, model: Model) -> None:
        with self.during("close", model, LIMIT):
            model.close()

    def question(self, model: Model, *ways: str) -> Question:
        asked = [q for q in questions(model.kind.answers) if not ways or q.way in ways]
        return self.rng.choice(asked)

    def part(self, question: Question) -> int:
        """Some of the tokens of an answer, at least one, and not all."""
        return self.rng.randrange(1, min(20, question.n_tokens))

    def pause(self, most: float = 0.01) -> None:
        time.sleep(self.rng.random() ** 2 * most)

    # ---- checks ----------------------------------------------------------------------------

    @contextmanager
    def during(self, name: str, about: object, limit: float | None = None) -> Iterator[Any]:
        """Counts and watches an operation."""
        self.shared.count(name)
        limits = {} if limit is None else {"limit": limit}
        with self.shared.watch.during(name, about, **limits) as moved:
            yield moved

    def check(self, model: Model, question: Question, pieces: list[Any], *, complete: bool) -> None:
        """The answer is stock's, or its beginning."""
        if model.kind.answers is None:
            return
        found = joined(pieces, question)
        expected = self.shared.answers[model.kind.answers][question.key]
        if found != (expected if complete else expected[: len(found)]):
            self.shared.tell("wrong", f"{model}, {question}: {found!r}, expected {expected!r}")
        self.shared.count("answers, complete" if complete else "answers, a part")

    @contextmanager
    def forgiving(self, model: Model, *, given_up: bool = False) -> Iterator[None]:
        """An error that what others do to the model explains ends the block, no other one."""
        mark = model.mark()
        try:
            yield
        except Exception as error:
            if not model.allows(error, mark, given_up=given_up):
                self.error(f"{model}: {traceback.format_exc()}")
            self.shared.count(f"error: {type(error).__name__}")

    def error(self, text: str) -> None:
        self.shared.tell("error", text)


def report_what_python_ignores(shared: Shared) -> None:
    """Exceptions in finalizers, hooks and threads are findings as well."""

    def ignored(event: Any) -> None:
        if issubclass(event.exc_type, KeyboardInterrupt):
            return  # in a hook that libllama calls; see interrupting.py
        if "object has no attribute '_exit_stack'" in str(event.exc_value):
            return  # llama_cpp's own, whose constructor Ctrl-C came into
        lines = traceback.format_exception(event.exc_type, event.exc_value, event.exc_traceback)
        shared.tell("error", f"ignored: {''.join(lines)}")

    sys.unraisablehook = ignored
    threading.excepthook = ignored

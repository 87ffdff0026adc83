"""What the main thread does, where signal handlers run: Ctrl-C, and handlers that use a model."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from .answers import pieces
from .model import Model
from .worker import Worker

#: Windows has no timer that sends signals.
POSSIBLE = hasattr(signal, "setitimer")


def interrupt(worker: Worker) -> None:
    """An answer that a signal comes into, at any moment, and then another one."""
    model = worker.model()
    question = worker.question(model)
    kind = worker.rng.choice(("Ctrl-C", "cancel() in a handler", "close() in a handler"))
    found: list[Any] = []
    stopped = False
    with (
        worker.during(kind, model) as moved,
        worker.forgiving(model),
        model.cancelling(),
        _signal(worker, kind, model) as armed,
    ):
        try:
            armed.append(True)
            for piece in pieces(model.llm, question):
                found.append(piece)
                moved()
        except KeyboardInterrupt:
            stopped = True
        finally:
            armed.clear()
    if stopped:
        worker.shared.count("interrupted by Ctrl-C")
    worker.check(model, question, found, complete=False)


def _makes_sampler(frame: FrameType | None) -> bool:
    """llama_cpp, interrupted while it makes a sampler, later frees memory that is not its own."""
    while frame is not None:
        if frame.f_code.co_name == "_init_sampler":
            return True
        frame = frame.f_back
    return False


@contextmanager
def _signal(worker: Worker, kind: str, model: Model) -> Iterator[list[bool]]:
    """A signal comes some milliseconds later; while the list it gives is not empty, it counts."""
    armed: list[bool] = []

    def handle(_: int, frame: FrameType | None) -> None:
        if not armed:
            return
        if kind == "Ctrl-C":
            if _makes_sampler(frame):
                return
            raise KeyboardInterrupt
        if kind == "close() in a handler":
            model.close()
        else:
            model.llm.cancel()

    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 1e-4 + 0.03 * worker.rng.random() ** 2)
    try:
        yield armed
    finally:
        armed.clear()
        signal.setitimer(signal.ITIMER_REAL, 0)

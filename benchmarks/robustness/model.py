"""A model that several threads use at once, and which errors they may get from it."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dflash_local import BackendError, Cancelled, Llama

from .setup import EXACT, Kind


def options(kind: Kind, rng: random.Random) -> dict[str, Any]:
    """What a load may be asked for; none of it changes an answer at temperature 0."""
    chosen = {
        **EXACT,
        "n_batch": rng.choice((16, 64, 512)),
        "logits_all": rng.random() < 0.2,
    }
    if kind.drafter is not None:
        chosen |= {"drafter": kind.drafter, "width": rng.choice((None, 0, 1, 3, 7))}
    return chosen


class Model:
    """A loaded pair.

    Attributes:
        llm: None once nobody is to use it any more.
    """

    def __init__(self, kind: Kind, rng: random.Random) -> None:
        self.kind = kind
        self.options = options(kind, rng)
        self.llm: Any = Llama(kind.verifier, **self.options)
        self._lock = threading.Lock()
        self._n_cancels_begun = 0
        self._n_cancels_ended = 0
        self._closed = False

    def __str__(self) -> str:
        shown = {
            k: self.options[k] for k in ("width", "n_batch", "logits_all") if k in self.options
        }
        return f"{self.kind.name} {shown}"

    @property
    def closed(self) -> bool:
        """Whether somebody has begun to close it."""
        return self._closed

    def close(self) -> None:
        self._closed = True
        self.llm.close()

    @contextmanager
    def cancelling(self) -> Iterator[None]:
        """While it lives, and no longer, what is at work may end with ``Cancelled``."""
        with self._lock:
            self._n_cancels_begun += 1
        try:
            yield
        finally:
            with self._lock:
                self._n_cancels_ended += 1

    def mark(self) -> int:
        """To be taken before an operation begins; see ``allows``."""
        with self._lock:
            return self._n_cancels_ended

    def allows(self, error: BaseException, mark: int, *, given_up: bool = False) -> bool:
        """Whether an operation that began at ``mark`` may end so.

        Args:
            given_up: its thread used the model for something else meanwhile.
        """
        if isinstance(error, Cancelled):
            return self._closed or self._n_cancels_begun > mark
        if isinstance(error, BackendError):
            closed = self._closed and "closed" in str(error)
            return closed or (given_up and "used for something else" in str(error))
        return False

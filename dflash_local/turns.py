"""Who may use a model: one thread at a time, and one generator until something else begins."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from .errors import BackendError


class Turns:
    """A turn begins with each request; a generator goes on only while the turn is its own."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.current = object()

    def begin(self) -> None:
        """Ends the turn of whatever ran before."""
        self.current = object()

    @contextlib.contextmanager
    def alone(self, turn: object = None) -> Iterator[None]:
        """The caller's thread has the model for itself, in ``turn`` if one is given.

        Raises:
            BackendError: another thread has it, or the turn is over.
        """
        if not self._lock.acquire(blocking=False):
            raise BackendError("the model is at work in another thread: one call at a time")
        try:
            if turn not in (None, self.current):
                raise BackendError(
                    "the model was used for something else while this generator was running: "
                    "finish or close a generator before the next call"
                )
            yield
        finally:
            self._lock.release()

    @contextlib.contextmanager
    def if_still(self, turn: object) -> Iterator[bool]:
        """Whether the turn is not over and no other thread is at work, while inside."""
        if not self._lock.acquire(blocking=False):
            yield False
            return
        try:
            yield self.current is turn
        finally:
            self._lock.release()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """As ``alone``, after waiting for the thread that is at work."""
        with self._lock:
            yield

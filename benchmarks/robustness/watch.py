"""Who is at what, and whether it goes on: finds the hangs of a child, from inside.

A second here is one in which the process was running: where the machine gives the time to others,
the clock stands still. A hang is a call with a limit that takes longer than that, a thread that for
a second does nothing while nobody does anything with the same model either, and whatever takes a
minute.
"""

from __future__ import annotations

import faulthandler
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .activity import Activity

TICK = 0.05
LIMIT = 1.0
_MOST = 60.0
_GIVEN_UP = 10.0
#: The status of a child that ends itself, because one of its threads would never.
HUNG = 86


class _Operation:
    """What one thread does now."""

    def __init__(self, name: str, about: object, limit: float, now: float) -> None:
        self.name = name
        self.about = about
        self.limit = limit
        self.began = now
        self.moved = now  # when it last made progress
        self.told = False
        self.thread = threading.get_native_id()


class Watch:
    """Watches the operations of all threads.

    Args:
        hung: is told of each hang, once.
        tick: is called at every tick, for whoever watches the process from outside.
    """

    def __init__(self, hung: Callable[[str], None], tick: Callable[[], None]) -> None:
        self._hung = hung
        self._tick = tick
        self._now = 0.0
        self._operations: dict[int, _Operation] = {}
        self._ids = itertools.count()
        self._activity = Activity()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    @contextmanager
    def during(
        self, name: str, about: object, limit: float = _MOST
    ) -> Iterator[Callable[[], None]]:
        """Watches an operation on a model; gives what to call when it makes progress."""
        operation = _Operation(name, about, limit, self._now)
        key = next(self._ids)
        self._operations[key] = operation

        def moved() -> None:
            operation.moved = self._now

        try:
            yield moved
        finally:
            del self._operations[key]
            if self._now - operation.began > operation.limit:
                self._tell(operation, "took long")

    def _run(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(TICK):
            now = time.monotonic()
            self._now += min(now - last, 2 * TICK)
            last = now
            self._look()
            self._tick()

    def _look(self) -> None:
        at_work = list(self._operations.values())
        active = self._activity.of(operation.thread for operation in at_work)
        for operation in at_work:
            if operation.thread in active:
                operation.moved = self._now
        for operation in at_work:
            same = [other.moved for other in at_work if other.about is operation.about]
            if self._now - max(same) > LIMIT:
                self._tell(operation, "stands still")
            elif self._now - operation.began > operation.limit:
                self._tell(operation, "takes long")
            if self._now - operation.began > operation.limit + _GIVEN_UP:
                faulthandler.dump_traceback(all_threads=True)
                os._exit(HUNG)

    def _tell(self, operation: _Operation, how: str) -> None:
        if operation.told:
            return
        operation.told = True
        if not self._ended.is_set():
            faulthandler.dump_traceback(all_threads=True)
        seconds = self._now - operation.began
        self._hung(f"{operation.name} on {operation.about} {how}: {seconds:.1f} s")

"""How long learning may take, and that it makes way for models that answer."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from dflash_local.record.heartbeat import is_at_work

_LOOK = 0.5  # seconds between two looks whether a model still answers


class Pace:
    """A number of minutes of work, in which pauses do not count.

    Args:
        folder: in which models that answer say so.
        say: told of the first pause.
    """

    def __init__(self, folder: Path, minutes: float, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._say = say
        self._began = time.monotonic()
        self._seconds = 60 * minutes
        self.paused = 0.0  # seconds

    def make_way(self) -> None:
        """Returns when no model answers that records in the folder."""
        began = time.monotonic()
        while is_at_work(self._folder):
            if not self.paused and time.monotonic() - began < _LOOK:
                self._say("a model answers: learning waits until it has ended")
            time.sleep(_LOOK)
        self.paused += time.monotonic() - began

    @property
    def worked(self) -> float:
        """Seconds of work so far."""
        return time.monotonic() - self._began - self.paused

    @property
    def left(self) -> float:
        """Seconds of work that are left."""
        return self._seconds - self.worked


def be_polite() -> None:
    """Gives this process, and what it starts, the lowest priority, for good."""
    if sys.platform == "win32":
        import psutil

        psutil.Process().nice(psutil.IDLE_PRIORITY_CLASS)
    else:
        os.nice(19)

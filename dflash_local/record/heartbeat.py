"""Whether a model answers at present, as a learner in another process can tell.

The time of one file says it. Nothing has to be undone where a process dies: the time grows old.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

_FILE = ".at-work"
_EVERY = 0.5  # seconds between two marks: they cost a system call
_PROMPT = 60.0  # seconds that reading a prompt may take, in which nobody says anything
_QUIET = 5.0  # seconds without a token after which nobody is taken to answer


class Heartbeat:
    """Says in a folder that an answer is being made. Where that cannot be written, nobody knows."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / _FILE
        self._last = 0.0

    def begin(self) -> None:
        """A prompt is about to be read."""
        self._mark(time.time() + _PROMPT)
        self._last = 0.0  # the first token ends that

    def beat(self) -> None:
        """A token has come."""
        now = time.monotonic()
        if now - self._last >= _EVERY:
            self._last = now
            self._mark(time.time())

    def _mark(self, when: float) -> None:
        with contextlib.suppress(OSError):
            os.close(os.open(self._file, os.O_WRONLY | os.O_CREAT, 0o600))
            os.utime(self._file, (when, when))


def is_at_work(folder: Path) -> bool:
    """Whether a model that records in this folder answers, or did a moment ago."""
    try:
        marked = (folder / _FILE).stat().st_mtime
    except OSError:
        return False
    return -_QUIET < marked - time.time() <= _PROMPT

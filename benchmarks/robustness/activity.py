"""Which threads of this process do something: a thread that waits for a lock does not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import psutil

_TASKS = Path("/proc/self/task")


class Activity:
    """Which threads have had the processor, or wait for it or for a disk, since last asked."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._seconds: dict[int, float] = {}

    def of(self, threads: Iterable[int]) -> set[int]:
        """Those of the threads, by their native ids; one that cannot be told is among them."""
        spent = {t.id: t.user_time + t.system_time for t in self._process.threads()}
        before, self._seconds = self._seconds, spent
        return {
            thread
            for thread in threads
            if thread not in spent or spent[thread] > before.get(thread, 0) or _is_runnable(thread)
        }


def _is_runnable(thread: int) -> bool:
    """On Linux; a loaded machine lets a thread wait for its turn for long."""
    try:
        state = (_TASKS / str(thread) / "stat").read_text(encoding="ascii").rpartition(")")[2]
    except OSError:
        return False
    return state.split()[0] in ("R", "D")

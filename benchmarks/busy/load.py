"""Other processes that want a processor, and how much others had beside them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from dflash_local.machine.other_work import OtherWork

_SPIN = "while True: pass"


@contextmanager
def busy_processes(n: int) -> Iterator[None]:
    """Inside, ``n`` processes compute without a pause, one thread each."""
    processes = [subprocess.Popen([sys.executable, "-S", "-c", _SPIN]) for _ in range(n)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


class StrangersWork(OtherWork):
    """Of those who are no children of this process either."""

    def _others_seconds(self) -> float:
        children = psutil.Process().children(recursive=True)
        return super()._others_seconds() - sum(map(_seconds, children))


def _seconds(process: psutil.Process) -> float:
    try:
        return float(sum(process.cpu_times()[:4]))
    except psutil.NoSuchProcess:
        return 0.0

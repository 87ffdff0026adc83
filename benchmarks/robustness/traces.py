"""What a child leaves behind in its process, once all models are closed."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import llama_cpp
import psutil

from dflash_local import _core


@dataclass(frozen=True)
class Traces:
    """The process as seen from outside.

    Attributes:
        descriptors: how many are open.
        files: what they are, where the system tells.
        streams: which files the descriptors 1 and 2 are.
        log_callback: where libllama's log goes.
        threads: how many there are, Python's and others.
        memory: bytes that malloc has given out; where it does not tell, resident bytes.
    """

    descriptors: int
    files: tuple[str, ...]
    streams: tuple[tuple[int, int], ...]
    log_callback: int | None
    threads: int
    memory: int


def look() -> Traces:
    process = psutil.Process()
    for _ in range(3):  # what a finalizer lets go is found the next time
        gc.collect()
    windows = sys.platform == "win32"
    files = _files()
    return Traces(
        descriptors=process.num_handles() if windows else len(files) or process.num_fds(),
        files=files,
        streams=tuple((os.fstat(fd).st_dev, os.fstat(fd).st_ino) for fd in (1, 2)),
        log_callback=_log_callback(),
        threads=process.num_threads(),
        memory=_memory(process),
    )


def settled(before: Traces, seconds: float = 2.0) -> Traces:
    """The process now; what ends a little later, as threads do, is waited for."""
    deadline = time.monotonic() + seconds
    while True:
        now = look()
        same = (now.descriptors, now.threads) == (before.descriptors, before.threads)
        if (same and now.memory <= before.memory) or time.monotonic() > deadline:
            return now
        time.sleep(0.05)


def new_files(before: Traces, after: Traces) -> list[str]:
    """Those that are open and were not, or were open once less; and the other way round."""
    then, now = Counter(before.files), Counter(after.files)
    return [f"opened: {file}" for file in now - then] + [f"closed: {file}" for file in then - now]


def changes(before: Traces, after: Traces) -> dict[str, int]:
    """By how much each is another than before; memory in bytes."""
    return {
        "descriptors": after.descriptors - before.descriptors,
        "streams": int(after.streams != before.streams),
        "log_callback": int(after.log_callback != _core.log_callback()),
        "threads": after.threads - before.threads,
        "memory": after.memory - before.memory,
    }


def _log_callback() -> int | None:
    callback, user_data = llama_cpp.llama_log_callback(), ctypes.c_void_p()
    llama_cpp.llama_log_get(ctypes.byref(callback), ctypes.byref(user_data))
    return ctypes.cast(callback, ctypes.c_void_p).value


def _files() -> tuple[str, ...]:
    """Those of the system's own folder are the watch's, which looks who is at work."""
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        return ()
    found = []
    for entry in list(folder.iterdir()):
        with suppress(OSError):  # the folder itself, which is closed by now
            found.append(str(entry.readlink()))
    return tuple(sorted(name for name in found if not name.startswith("/proc/")))


class _Mallinfo2(ctypes.Structure):
    """What glibc's malloc tells of the one arena that a child has."""

    _fields_: ClassVar = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def _memory(process: psutil.Process) -> int:
    """Pieces that were freed do not count: malloc may keep them, and does in a random order."""
    ask = getattr(ctypes.CDLL(None), "mallinfo2", None) if sys.platform == "linux" else None
    if ask is None:
        return int(process.memory_info().rss)
    ask.restype = _Mallinfo2
    told = ask()
    return int(told.uordblks + told.hblkhd)

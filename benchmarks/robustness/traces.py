"""What a child leaves behind in its process, once all models are closed."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import time
from dataclasses import dataclass

import llama_cpp
import psutil

from dflash_local import _core


@dataclass(frozen=True)
class Traces:
    """The process as seen from outside.

    Attributes:
        descriptors: how many are open.
        streams: which files the descriptors 1 and 2 are.
        log_callback: where libllama's log goes.
        threads: how many there are, Python's and others.
        memory: resident bytes, after what malloc keeps in reserve was given back.
    """

    descriptors: int
    streams: tuple[tuple[int, int], ...]
    log_callback: int | None
    threads: int
    memory: int


def look() -> Traces:
    process = psutil.Process()
    _give_back_memory()
    windows = sys.platform == "win32"
    return Traces(
        descriptors=process.num_handles() if windows else process.num_fds(),
        streams=tuple((os.fstat(fd).st_dev, os.fstat(fd).st_ino) for fd in (1, 2)),
        log_callback=_log_callback(),
        threads=process.num_threads(),
        memory=process.memory_info().rss,
    )


def settled(before: Traces, seconds: float = 2.0) -> Traces:
    """The process now; what ends a little later, as threads do, is waited for."""
    deadline = time.monotonic() + seconds
    while True:
        now = look()
        same = (now.descriptors, now.threads) == (before.descriptors, before.threads)
        if same or time.monotonic() > deadline:
            return now
        time.sleep(0.05)


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


def _give_back_memory() -> None:
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if trim is not None:
            trim(0)

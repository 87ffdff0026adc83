"""What libllama says: to Python's logging, and to whoever listens while a model is loaded.

libllama has one log callback for the process. Ours is set once, when this module is imported, and
never taken away again: it is a C function of ``_core``, so that no thread can find it gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import llama_cpp

from ._api import _core, parents_log

#: Everything that libllama logs goes here; applications decide what becomes of it.
logger = logging.getLogger("dflash_local")
logger.addHandler(logging.NullHandler())

# ggml.h; the numbers in the comments of llama_cpp._logger are older ones.
_LEVELS = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}
_CONTINUED = 5

Listener = Callable[[int, str], None]


class _Thread(threading.local):
    """What a thread's log is at: its listeners, and a line that comes in pieces."""

    def __init__(self) -> None:
        self.listeners: list[Listener] = []
        self.level = logging.INFO
        self.pending = ""


_thread = _Thread()
_previous: Callable[[int, bytes], None] | None = None
_previous_prints = False  # it is llama_cpp's own, which writes to the standard error


def _install() -> None:
    """Sets the process's log callback."""
    global _previous, _previous_prints
    callback, user_data = llama_cpp.llama_log_callback(), ctypes.c_void_p()
    llama_cpp.llama_log_get(ctypes.byref(callback), ctypes.byref(user_data))
    if callback:
        _previous_prints = _address(callback) == _address(parents_log.llama_log_callback)
        _previous = functools.partial(_call, callback, user_data)
    _core.install_log(_receive)


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Calls it with level and line of all that libllama logs in this thread; nothing is printed."""
    _thread.listeners.append(listener)
    try:
        yield
    finally:
        _thread.listeners.remove(listener)


@contextlib.contextmanager
def captured_log() -> Iterator[list[str]]:
    """libllama's errors in this thread go into the list, a line each; nothing is printed."""
    lines: list[str] = []

    def keep(level: int, line: str) -> None:
        if level >= logging.ERROR:
            lines.append(f"{line}\n")

    with listening(keep):
        yield lines


def _receive(level: int, text: bytes) -> None:
    if not _thread.listeners:
        _pass_on(level, text)
    if level != _CONTINUED:
        _thread.level = _LEVELS.get(level, logging.INFO)
    *lines, _thread.pending = (_thread.pending + text.decode("utf-8", "replace")).split("\n")
    for line in lines:
        logger.log(_thread.level, "%s", line)
        for listener in _thread.listeners:
            listener(_thread.level, line)


def _pass_on(level: int, text: bytes) -> None:
    """To the callback that was there before: llama_cpp's own prints where it was told to."""
    if _previous is None or (_previous_prints and parents_log.logger.level > logging.DEBUG):
        return
    _previous(level, text)


def _call(callback: Any, user_data: ctypes.c_void_p, level: int, text: bytes) -> None:
    callback(level, text, user_data)


def _address(callback: object) -> int | None:
    return ctypes.cast(callback, ctypes.c_void_p).value  # type: ignore[arg-type]


_install()

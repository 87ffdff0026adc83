"""What libllama says, caught instead of printed."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

import llama_cpp

# ggml.h; the numbers in the comments of llama_cpp._logger are older ones.
_ERROR = 4


@contextlib.contextmanager
def captured_log() -> Iterator[list[str]]:
    """libllama's errors go into the list instead of its log callback, which is put back."""
    lines: list[str] = []

    def keep(level: int, text: bytes, _user_data: object) -> None:
        if level == _ERROR:
            lines.append(text.decode("utf-8", "replace"))
        elif previous:
            previous(level, text, user_data)

    callback = llama_cpp.llama_log_callback(keep)
    previous, user_data = llama_cpp.llama_log_callback(), ctypes.c_void_p()
    llama_cpp.llama_log_get(ctypes.byref(previous), ctypes.byref(user_data))
    llama_cpp.llama_log_set(callback, ctypes.c_void_p())
    try:
        yield lines
    finally:
        llama_cpp.llama_log_set(previous, user_data)

"""Warnings, as lines of a command."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def warnings_on_stderr(command: str) -> Iterator[None]:
    """Inside, a warning is one line on standard error that begins with the command's name."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(
            f"dflash-local {command}: warning: {message}", file=sys.stderr
        )
        yield

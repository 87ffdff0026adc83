"""Warnings that name the line of the user's that called this package."""

from __future__ import annotations

import inspect
import warnings


def warn(message: str) -> None:
    """Warns with a ``RuntimeWarning``."""
    warnings.warn(message, RuntimeWarning, stacklevel=_callers_level())


def _callers_level() -> int:
    """The ``stacklevel`` at which a warning of this function's caller names a user's line."""
    package = __name__.partition(".")[0]
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith(f"{package}."):
        level, frame = level + 1, frame.f_back
    return level - 1

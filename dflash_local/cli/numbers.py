"""Numbers on the command line, for ``argparse``: what was found and what was expected."""

from __future__ import annotations

import argparse
import contextlib


def natural(text: str) -> int:
    """0, 1, 2, ..."""
    return _whole(text, 0)


def positive(text: str) -> int:
    """1, 2, 3, ..."""
    return _whole(text, 1)


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or not least <= int(text) < 1 << 31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)


def non_negative(text: str) -> float:
    """A finite number of at least 0."""
    with contextlib.suppress(ValueError):
        if 0 <= float(text) < float("inf"):
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")

"""Waiting in tests: for what they need, however long a busy machine takes to come to it."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Seconds after which a test gives up. Nothing takes so long but what hangs.
PATIENCE = 600.0


def wait_until(holds: Callable[[], object], what: str) -> None:
    """Returns as soon as it does."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.01)

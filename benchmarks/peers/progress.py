"""What runs at the moment: one changing line on a terminal, a line for each pass elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from .measure import Progress


@contextmanager
def shown(console: Console, weights: str) -> Iterator[Progress]:
    """A ``Progress`` for the measurement of these weights."""
    if console.is_terminal:
        with console.status(f"{weights}: loading") as status:
            yield lambda done, total, what: status.update(_line(weights, done, total, what))
        return
    told: set[int] = set()

    def tell(done: int, total: int, _what: str) -> None:
        if done not in told:
            told.add(done)
            console.print(f"{weights}: pass {done + 1} of {total}", highlight=False)

    yield tell


def _line(weights: str, done: int, total: int, what: str) -> str:
    return f"{weights}: pass {done + 1} of {total}: {what}"

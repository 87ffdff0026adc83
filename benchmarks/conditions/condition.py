"""Where people run it: what else goes on while a pair is loaded, and while it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from threading import Timer
from typing import Any

from busy.load import busy_processes

_FIRST = 1.0  # seconds

Happening = Callable[[], "AbstractContextManager[None]"]


@dataclass(frozen=True)
class Condition:
    """What answers are made in.

    Attributes:
        loading: what goes on from the beginning of the first load on.
        answering: what goes on while answers are made.
        options: more arguments of both ``Llama``s, such as other devices.
    """

    name: str
    loading: Happening = nullcontext
    answering: Happening = nullcontext
    options: Mapping[str, Any] = field(default_factory=dict)


def _busy() -> AbstractContextManager[None]:
    return busy_processes(1)


@contextmanager
def _busy_at_first() -> Iterator[None]:
    """A process that competes for a second. A load that takes less is waited with till its end."""
    busy = busy_processes(1)
    busy.__enter__()
    end = Timer(_FIRST, busy.__exit__, (None, None, None))
    end.start()
    try:
        yield
    finally:
        end.join()


CONDITIONS = (
    Condition("quiet"),
    Condition("a busy process for the first second", loading=_busy_at_first),
    Condition("a busy process all along", loading=_busy, answering=_busy),
)

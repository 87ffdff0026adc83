"""Statistics of the speculative loop, as ``llm.stats`` gives them."""

from __future__ import annotations

from dataclasses import dataclass

from ._core import Stats


@dataclass(frozen=True)
class SessionStats:
    """Counts and seconds, at the moment they were asked for.

    Attributes:
        last: of the answer that ran last.
        total: since the model was loaded.
    """

    last: Stats
    total: Stats

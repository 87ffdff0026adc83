"""What a training tells on its way."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .loop import FitProgress, Score
    from .simulation import Simulation

#: (what is being done, done, in all)
Count = Callable[[str, int, int], None]


class Progress:
    """Is told how a training is going, and shows nothing of it: override what you want to show."""

    def count(self, what: str, done: int, total: int) -> None:
        """``done`` of ``total`` prompts or answers, as ``what`` says."""

    def say(self, line: str) -> None:
        """What the user should know."""

    def fitted(self, progress: FitProgress, score: Score | None) -> None:
        """The fit took a step with this score; without one it has looked at held-out text."""

    def simulated(self, simulation: Simulation | None) -> None:
        """The drafter was tried in the real loop; None: it could not be."""

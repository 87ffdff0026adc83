"""How a training is going: bars with the time left on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from dflash_local.train.progress import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from dflash_local.train.loop import FitProgress, Score
    from dflash_local.train.simulation import Simulation

_SECONDS_A_LINE = 30.0


class Meter(Protocol):
    """Shows where a step stands, and says a line now and then."""

    def update(self, what: str, done: int, total: int) -> None:
        """``done`` of ``total`` things of a step."""

    def say(self, line: str) -> None:
        """A line that stays."""


class TrainProgress(Progress):
    """Shows what a training tells."""

    def __init__(self, meter: Meter, n_steps: int) -> None:
        self._meter = meter
        self._n_steps = n_steps

    def count(self, what: str, done: int, total: int) -> None:
        """Of a step that counts."""
        self._meter.update(what, done, total)

    def say(self, line: str) -> None:
        """What the user should know."""
        self._meter.say(line)

    def fitted(self, progress: FitProgress, score: Score | None) -> None:
        """Of the fit: every look at held-out text, and every step in between."""
        if score is not None:
            what = f"fit, loss {score.loss:.2f}, best {progress.best:.2f} drafts a block"
            self._meter.update(what, progress.step, self._n_steps)
            return
        self._meter.say(
            f"step {progress.step}: {progress.log[-1]['accepted']:.3f} drafts accepted a block on "
            f"held-out text (best {progress.best:.3f} at step {progress.best_step})"
        )

    def simulated(self, simulation: Simulation | None) -> None:
        """Of the exported drafter; None where it could not be tried."""
        if simulation is None:
            from dflash_local.train.simulation import NOT_TRIED

            self._meter.say(NOT_TRIED)
            return
        self._meter.say(
            f"in the real loop: {simulation.accepted:.3f} drafts accepted a block "
            f"(standard error {simulation.error:.3f}, {simulation.n_blocks} blocks)"
        )


@contextmanager
def shown(n_steps: int) -> Iterator[TrainProgress]:
    """Progress on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not console.is_terminal:
        yield TrainProgress(_Lines(), n_steps)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    text = TextColumn("[progress.description]{task.description}")
    with Bar(text, *columns, console=console) as bar:
        yield TrainProgress(_Bars(bar), n_steps)


class _Bars:
    """A bar for each step, named by its first word."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._tasks: dict[str, TaskID] = {}

    def update(self, what: str, done: int, total: int) -> None:
        step = what.split(",")[0]
        if step not in self._tasks:
            self._tasks[step] = self._bar.add_task(what, total=total)
        self._bar.update(self._tasks[step], completed=done, total=total, description=what)

    def say(self, line: str) -> None:
        self._bar.console.print(line, markup=False, highlight=False)


class _Lines:
    """A line now and then, with the time left of the step."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._began: dict[str, tuple[float, int]] = {}

    def update(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        began, first = self._began.setdefault(what.split(",")[0], (now, done))
        if now - self._last < _SECONDS_A_LINE or done <= first:
            return
        left = (now - began) / (done - first) * (total - done) / 60
        self.say(f"{what}: {done} of {total}, about {left:.0f} minutes left")

    def say(self, line: str) -> None:
        self._last = time.monotonic()
        print(f"dflash-local train: {line}", file=sys.stderr, flush=True)

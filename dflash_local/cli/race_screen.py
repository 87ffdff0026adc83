"""Where a race is shown: two panes on a terminal, plain text for a pipe, and a picture of it."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dflash_local.cli.race import Runner
from dflash_local.cli.screen import forgive_encodings, printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

DRAFTED = "bold green"
_SECONDS_A_FRAME = 1 / 15
_BESIDE_PANES = 8  # lines of a terminal: prompt, frames, meters, and the cursor
_LEAST_LINES = 3  # of an answer, however low the terminal is
_PICTURE_COLUMNS = 100
_BAR_COLUMNS = 30


class RaceScreen(Protocol):
    """What the demo needs of a place to write to."""

    def showing(
        self, prompt: str, runners: Sequence[Runner]
    ) -> contextlib.AbstractContextManager[Callable[[], None]]:
        """Shows a race while inside; gives what is to be called after each step."""

    def say(self, line: str) -> None:
        """A line of its own."""


class PlainRaceScreen:
    """Each answer when the race is over: both come at once, and a pipe has one place only."""

    @contextlib.contextmanager
    def showing(self, prompt: str, runners: Sequence[Runner]) -> Iterator[Callable[[], None]]:
        """Writes nothing before the end."""
        print(f"> {prompt}", flush=True)
        yield lambda: None
        for runner in runners:
            answer = "".join(piece.text for piece in runner.pieces)
            print(f"\n{runner.name}: {meter_text(runner)}\n{answer}", flush=True)

    def say(self, line: str) -> None:
        """On standard output."""
        print(line, flush=True)


class TerminalRaceScreen:
    """One pane above the other, as high as the terminal allows, and a meter under each."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(highlight=False, markup=False, emoji=False)

    @contextlib.contextmanager
    def showing(self, prompt: str, runners: Sequence[Runner]) -> Iterator[Callable[[], None]]:
        """What stays on the terminal is how the race ended, with whole answers."""
        from rich.live import Live

        # Shown between two steps, by this thread: another one would take a decode's processor.
        with Live(console=self._console, auto_refresh=False) as live:

            def show() -> None:
                height = max(_LEAST_LINES, (self._console.height - _BESIDE_PANES) // len(runners))
                live.update(frame(self._console, prompt, runners, height), refresh=True)

            yield _now_and_then(show)
            live.update(frame(self._console, prompt, runners, None))  # shown as it ends

    def say(self, line: str) -> None:
        """In bold."""
        self._console.print(line, style="bold")


def open_race_screen() -> RaceScreen:
    """A terminal's if standard output is one, else plain text."""
    forgive_encodings()
    return TerminalRaceScreen() if sys.stdout.isatty() else PlainRaceScreen()


def save_picture(file: Path, prompt: str, runners: Sequence[Runner], said: tuple[str, str]) -> None:
    """Writes how a race ended as an SVG of a terminal.

    Args:
        said: before it and after it.

    Raises:
        OSError: the file cannot be written.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=_PICTURE_COLUMNS, file=io.StringIO(), force_terminal=True)
    before, after = (Text(line, style="bold") for line in said)
    console.print(before, frame(console, prompt, runners, None), after)
    file.write_text(console.export_svg(title="dflash-local demo"), encoding="utf-8")


def meter_text(runner: Runner) -> str:
    """How quick a runner has been in this answer."""
    tally = runner.tally
    parts = [f"{tally.tokens_per_second:.1f} tokens/s"]
    if runner.drafts:
        parts.append(f"acceptance length {tally.acceptance_length:.2f}")
    return " · ".join([*parts, f"{tally.n_tokens} tokens in {tally.seconds:.2f} s"])


def frame(
    console: Console, prompt: str, runners: Sequence[Runner], height: int | None
) -> RenderableType:
    """The prompt, and each runner's pane over its meter.

    Args:
        height: lines of an answer, its last ones; None: all of them.
    """
    from rich.console import Group
    from rich.text import Text

    fastest = max(runner.tally.tokens_per_second for runner in runners)
    asked = Text("> " + " ".join(printable(prompt).split()), overflow="ellipsis")
    asked.no_wrap = height is not None
    parts: list[RenderableType] = [asked]
    for runner in runners:
        parts += [_pane(console, runner, height), _meter(runner, fastest)]
    return Group(*parts)


def _pane(console: Console, runner: Runner, height: int | None) -> RenderableType:
    from rich.panel import Panel
    from rich.text import Text

    title = Text(runner.name, style="bold")
    if runner.drafts:
        title.append(" · ").append("drafted tokens", style=DRAFTED)
    lines = list(_answer(runner).wrap(console, console.width - 4))
    whole = Text("\n").join(lines if height is None else lines[-height:])
    return Panel(whole, title=title, title_align="left", height=height and height + 2)


def _answer(runner: Runner) -> Text:
    from rich.text import Text

    text = Text()
    for piece in runner.pieces:
        text.append(printable(piece.text), style=DRAFTED if piece.drafted else "")
    text.expand_tabs(4)
    return text


def _meter(runner: Runner, fastest: float) -> RenderableType:
    from rich.bar import Bar
    from rich.table import Table

    speed = runner.tally.tokens_per_second
    grid = Table.grid(padding=(0, 1))
    colour = "green" if runner.drafts else "white"
    bar = Bar(fastest or 1.0, 0, speed, width=_BAR_COLUMNS, color=colour)
    grid.add_row(bar, meter_text(runner))
    return grid


def _now_and_then(show: Callable[[], None]) -> Callable[[], None]:
    """Called at any rate, shows so many frames a second at most."""
    last = 0.0

    def paced() -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_A_FRAME:
            show()
            last = time.monotonic()

    return paced

"""Where a chat is shown: a terminal, or plain text for a pipe."""

from __future__ import annotations

import contextlib
import sys
import unicodedata
from typing import Protocol

PROMPT = "> "


class Screen(Protocol):
    """What the chat needs of a place to write to."""

    def dim(self, line: str) -> None:
        """A line about the answers, such as statistics."""

    def notice(self, line: str) -> None:
        """A line the user should see wherever the answer goes."""

    def piece(self, text: str) -> None:
        """The next piece of an answer, at once."""

    def end_answer(self) -> None:
        """The answer is complete: what follows begins on a new line."""

    def ask(self) -> str:
        """The user's next line.

        Raises:
            EOFError: there is none.
        """


class PlainScreen:
    """Nothing but the answer on standard output; notices go to standard error."""

    def __init__(self) -> None:
        self._last = "\n"

    def dim(self, line: str) -> None:
        """Left out."""

    def notice(self, line: str) -> None:
        """One line on standard error."""
        print(line, file=sys.stderr, flush=True)

    def piece(self, text: str) -> None:
        """Written as it is and flushed."""
        sys.stdout.write(text)
        sys.stdout.flush()
        self._last = text[-1]

    def end_answer(self) -> None:
        """Ends the line unless the answer did."""
        if self._last != "\n":
            self.piece("\n")

    def ask(self) -> str:
        """A line of standard input; the prompt goes to standard error."""
        print(PROMPT, end="", file=sys.stderr, flush=True)
        return input()


class TerminalScreen:
    """A terminal: colours through rich, line editing and history through readline."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._column_zero = True
        with contextlib.suppress(ImportError):  # Windows has none
            import readline  # noqa: F401 - importing it gives input() editing and history

    def dim(self, line: str) -> None:
        """One grey line."""
        self._console.print(line, style="dim")

    def notice(self, line: str) -> None:
        """One yellow line, after the end of a line of an answer in progress."""
        self.end_answer()
        self._console.print(line, style="yellow")

    def piece(self, text: str) -> None:
        """Written without control characters."""
        safe = printable(text)
        if safe:
            self._console.print(safe, end="")
            self._column_zero = safe[-1] == "\n"

    def end_answer(self) -> None:
        """Ends the line unless the answer did."""
        if not self._column_zero:
            self._console.print()
            self._column_zero = True

    def ask(self) -> str:
        """A line with editing and history."""
        return input(PROMPT)


def printable(text: str) -> str:
    """Without the control characters a model could steer the terminal with."""
    return "".join(c for c in text if unicodedata.category(c) != "Cc" or c in "\n\t")


def open_screen() -> Screen:
    """A terminal's screen if standard output is one, else plain text."""
    forgive_encodings()
    return TerminalScreen() if sys.stdout.isatty() else PlainScreen()


def forgive_encodings() -> None:
    """A character that the other side's encoding lacks does not end the program."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]

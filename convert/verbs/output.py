"""What the verbs print: tables on a terminal, plain text in a pipe, JSON for scripts."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dflash_local.errors import DFlashError

if TYPE_CHECKING:
    from ..writing.writer import Progress

PROGRAM = "dflash-convert"


def run(work: Callable[[], int], *, trouble: int = 1) -> int:
    """Do the work; errors that help the user become a line on stderr and an exit code.

    Args:
        trouble: the exit code for them.
    """
    try:
        code = work()
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `| head` has seen enough; what is left must not fail at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (DFlashError, OSError) as error:
        say(f"error: {error}")
    except KeyboardInterrupt:
        say("interrupted, nothing was written")
    return trouble


def say(text: str) -> None:
    """A line on stderr."""
    print(f"{PROGRAM}: {text}", file=sys.stderr)


def warn(warnings: Iterable[str]) -> None:
    """Warnings on stderr, a line each."""
    for warning in warnings:
        say(f"warning: {warning}")


@contextmanager
def progress_bar(task: str = "writing") -> Iterator[Progress | None]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        line = bar.add_task(task, total=None)
        yield lambda done, total: bar.update(line, completed=done, total=total)


def print_json(report: Any, **extra: Any) -> None:
    """A dataclass as JSON, with more fields; numbers that JSON has no word for become null."""
    print(json.dumps(_plain({**asdict(report), **extra}), indent=2, ensure_ascii=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def print_table(rows: Iterable[Sequence[str]], head: Sequence[str] | None = None) -> None:
    """Columns; on a terminal with rich, which folds what is too wide."""
    lines = [tuple(row) for row in rows]
    if not lines:
        return
    if sys.stdout.isatty():
        _print_rich(lines, head)
        return
    if head is not None:
        lines.insert(0, tuple(head))
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]) - 1)]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        print("  ".join([*cells, line[-1]]).rstrip())


def _print_rich(lines: list[tuple[str, ...]], head: Sequence[str] | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=head is not None, pad_edge=False)
    for i, _ in enumerate(lines[0]):
        table.add_column(head[i] if head else "", overflow="fold", style="" if i else "bold")
    for line in lines:
        table.add_row(*map(Text, line))
    Console().print(table)


def megabytes(n_bytes: int) -> str:
    """A size for people."""
    return f"{n_bytes / 1e6:.1f} MB"

"""What ``dflash-local bench`` shows on a terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dflash_local.bench import markdown, tables
from dflash_local.bench.measuring import Report
from dflash_local.bench.report import Document, Results
from dflash_local.bench.runner import Progress

if TYPE_CHECKING:
    from rich.console import Console

_SECONDS_A_LINE = 30.0


@contextlib.contextmanager
def shown() -> Iterator[Progress]:
    """Progress on standard error: a bar on a terminal, a line now and then elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    text = TextColumn("[progress.description]{task.description}")
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines()
        return
    with Bar(*columns, text, console=console) as bar:
        task = bar.add_task("loading", total=None)
        yield lambda done, total, what: bar.update(
            task, completed=done, total=total, description=what
        )


def _lines() -> Progress:
    last = time.monotonic()

    def line(done: int, total: int, what: str) -> None:
        nonlocal last
        if time.monotonic() - last > _SECONDS_A_LINE:
            last = time.monotonic()
            print(f"dflash-local bench: {done} of {total} answers ({what})", file=sys.stderr)

    return line


def show(report: Report, older: Document | None) -> None:
    """The tables, what changed since an older report, and the verdicts; on standard output."""
    from rich.console import Console

    console, results = Console(), report.results
    titled = {
        "Speed": tables.speed_table(results.overall),
        "By category (speed-up / total speed-up / acceptance length)": tables.category_table(
            results.by_category
        ),
        **_adaptive(results),
        "Latency": tables.latency_table(results.overall),
        **_calls(results),
        "Quality": tables.quality_table(results.overall),
        "Cost account": tables.cost_table(results.costs),
    }
    for title, table in titled.items():
        if console.is_terminal:
            _rich_table(console, title, table)
        else:
            print(f"{title}\n\n{markdown.markdown_table(table)}\n")
    compared = (f"- {line}" for line in report.changes(older))
    for line in [*markdown.warnings(report.document), *compared]:
        print(line.replace("**", ""))
    for line in markdown.verdicts(results):
        print(line)


def _calls(results: Results) -> dict[str, tables.Table]:
    titled = {}
    if results.calls:
        titled[markdown.CALLS] = tables.call_table(results.calls)
    if results.places:
        titled[markdown.PLACES] = tables.place_table(results.places)
    return titled


def _adaptive(results: Results) -> dict[str, tables.Table]:
    found = results.adaptive
    return {"Adaptive widths": tables.adaptive_table(found)} if found else {}


def _rich_table(console: Console, title: str, table: tables.Table) -> None:
    from rich.table import Table

    whole = Table(title=title, title_justify="left", title_style="bold")
    for index, name in enumerate(table.head):
        whole.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    for index, row in enumerate(table.rows):
        whole.add_row(*row, style="bold green" if index == table.best else None)
    console.print(whole)

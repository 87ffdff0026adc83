"""``dflash-local bench``: acceptance, throughput, latency and quality of a pair, in one report."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dflash_local import hub
from dflash_local.bench import markdown, tables
from dflash_local.bench.compare import describe
from dflash_local.bench.pictures import draw_pictures
from dflash_local.bench.report import Report, Results, derive, read_report, write_report
from dflash_local.bench.results_csv import write_csv
from dflash_local.bench.runner import BenchOptions, Progress, run_bench
from dflash_local.bench.suite import SUITES, first_of_each, load_prompts
from dflash_local.busy import BusyWatch
from dflash_local.cli.bench_options import Arguments, parse
from dflash_local.cli.warned import warnings_on_stderr
from dflash_local.errors import DFlashError
from dflash_local.other_work import OtherWork

if TYPE_CHECKING:
    from rich.console import Console

_SECONDS_A_LINE = 30.0


def main(argv: list[str]) -> int:
    """Run the subcommand; returns the exit status."""
    arguments = parse(argv)
    try:
        with warnings_on_stderr("bench"):
            return _bench(arguments)
    except KeyboardInterrupt:
        print("dflash-local bench: interrupted, nothing was written", file=sys.stderr)
        return 130
    except (DFlashError, OSError, RuntimeError, ValueError) as error:
        print(f"dflash-local bench: {error}", file=sys.stderr)
        return 1


def _bench(arguments: Arguments) -> int:
    from rich.console import Console

    # All that can be wrong with files is told before anything runs for minutes.
    prompts = load_prompts(arguments.prompts or SUITES[arguments.suite])
    if arguments.per_category is not None:
        prompts = first_of_each(prompts, arguments.per_category)
    older = None if arguments.compare is None else read_report(arguments.compare)
    options = _options(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    others = OtherWork()
    with _progress() as progress, BusyWatch(options.threads):
        run = run_bench(options, prompts, progress)
    results = derive(options, run, prompts, others.share())
    report = write_report(results, arguments.out)
    compared = [] if older is None else describe(older, report)
    text = markdown.to_markdown(results, report, compared)
    (arguments.out / "report.md").write_text(text, encoding="utf-8")
    _draw(results, arguments.out)
    if arguments.csv is not None:
        write_csv(report, arguments.csv)
    _show(Console(), results, report, compared)
    print(f"\n{arguments.out / 'report.md'}")
    return 0


def _options(arguments: Arguments) -> BenchOptions:
    if (arguments.verifier is None) != (arguments.drafter is None):
        missing = "--drafter" if arguments.drafter is None else "--verifier"
        raise DFlashError(f"{missing} is missing: give both models, or none for the demo pair")
    return BenchOptions(
        verifier=arguments.verifier or hub.demo_verifier(),
        drafter=arguments.drafter or hub.demo_drafter(),
        threads=arguments.threads,
        widths=arguments.widths,
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        repeat=arguments.repeat,
        n_ctx=arguments.n_ctx,
        gpu_layers=arguments.gpu_layers,
        rpc=arguments.rpc,
        seed=arguments.seed,
        kv_f32=arguments.kv_f32,
        long_answers=arguments.long_answers,
        exact=arguments.exact,
    )


def _draw(results: Results, folder: Path) -> None:
    try:
        draw_pictures(results, folder)
    except DFlashError as error:  # the figures are worth more than their pictures
        print(f"dflash-local bench: {error}", file=sys.stderr)


# ---- on the terminal -----------------------------------------------------------------------


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on a terminal, a line now and then elsewhere; on standard error."""
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


def _show(console: Console, results: Results, report: Report, compared: list[str]) -> None:
    shown = {
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
    for title, table in shown.items():
        if console.is_terminal:
            _rich_table(console, title, table)
        else:
            print(f"{title}\n\n{markdown.markdown_table(table)}\n")
    for line in [*markdown.warnings(report), *(f"- {line}" for line in compared)]:
        print(line.replace("**", ""))
    for line in markdown.verdicts(results):
        print(line)


def _calls(results: Results) -> dict[str, tables.Table]:
    shown = {}
    if results.calls:
        shown[markdown.CALLS] = tables.call_table(results.calls)
    if results.places:
        shown[markdown.PLACES] = tables.place_table(results.places)
    return shown


def _adaptive(results: Results) -> dict[str, tables.Table]:
    found = results.adaptive
    return {"Adaptive widths": tables.adaptive_table(found)} if found else {}


def _rich_table(console: Console, title: str, table: tables.Table) -> None:
    from rich.table import Table

    shown = Table(title=title, title_justify="left", title_style="bold")
    for index, name in enumerate(table.head):
        shown.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    for index, row in enumerate(table.rows):
        shown.add_row(*row, style="bold green" if index == table.best else None)
    console.print(shown)

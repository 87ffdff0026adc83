"""The table on the terminal or in Markdown, the JSON and the CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dflash_local.bench.measures import Spread

from .answer import ADAPTIVE, OURS, UPSTREAM, Record
from .summary import Row

SCHEMA = 1
_COLUMNS = (
    *("weights", "engine", "width", "tokens/s", "speed-up", "total"),
    *("tokens a step", "as plain", ""),
)


@dataclass
class Report:
    """All there is to tell of a run.

    Attributes:
        facts: date, hardware, versions and options: what a figure depends on.
        skipped: engines that did not run, and why.
    """

    facts: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)


def print_report(report: Report, console: Console) -> None:
    """A table of rich on a terminal, Markdown in a pipe or a file."""
    if console.is_terminal:
        console.print(_rich_table(report.rows))
        for line in closing_lines(report):
            console.print(line, markup=False, highlight=False)
    else:
        console.file.write(markdown(report))


def markdown(report: Report) -> str:
    """The table and what belongs to it, as Markdown."""
    head = [f"| {' | '.join(_COLUMNS)} |", "|---|---|---:|---:|---:|---:|---:|---:|---|"]
    body = [f"| {' | '.join(_cells(row))} |" for row in report.rows]
    return "\n".join([*head, *body, "", *(f"- {line}" for line in closing_lines(report)), ""])


def closing_lines(report: Report) -> list[str]:
    """Under the table: the best of ours and of upstream, what was skipped, the machine."""
    facts = report.facts
    hardware, versions = facts["hardware"], facts["versions"]
    machine = (
        f"{hardware['cpu']}, {facts['options']['threads']} threads of {hardware['logical_cpus']}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
    )
    skipped = [f"{engine}: skipped: {why}" for engine, why in report.skipped.items()]
    explained = (
        "Median (quartiles) over answers; speed-up over the engine's own plain decoding of the "
        "same prompt in the same round. Total: the speed-up of all tokens over all seconds. The "
        "best width is picked on these same answers."
    )
    found = [*verdicts(report.rows), *_disagreements(report.rows)]
    return [*found, *report.notes, *skipped, explained, machine]


def verdicts(rows: Sequence[Row]) -> list[str]:
    """Lines for each kind of weights: ours against upstream's default and best.

    The ratios are of speed-ups, each over its own engine's plain decoding, of the median answer.
    """
    lines = []
    for weights in dict.fromkeys(row.weights for row in rows):
        here = [row for row in rows if row.weights == weights and row.width > 0]
        ours = [row for row in here if row.engine == OURS]
        theirs = [row for row in here if row.engine == UPSTREAM]
        best = [("our best", _fastest(ours))] if ours else []
        rivals = [("upstream's best", _fastest(theirs))] if theirs else []
        rivals += [("upstream's default", row) for row in theirs if "default" in row.note]
        if best and rivals:
            lines.append(f"{weights}: {', '.join(_told(*known) for known in [*best, *rivals])}")
        adaptive = [row for row in here if row.engine == ADAPTIVE]
        lines += [_adaptive_line(row, [*best, *rivals]) for row in adaptive]
    return lines


def _disagreements(rows: Sequence[Row]) -> list[str]:
    return [
        f"{row.weights}, {row.engine} at width {row.width}: the median answer and all answers "
        f"together disagree, {row.speedup.median:.2f}x and {row.speedup_total:.2f}x: long answers "
        f"gain {'less' if row.speedup.median > row.speedup_total else 'more'} than most"
        for row in rows
        if row.disagrees
    ]


def _adaptive_line(row: Row, rivals: Sequence[tuple[str, Row]]) -> str:
    reached, speed = row.speedup.median, row.tokens_per_second.median
    parts = [f"{reached / rival.speedup.median:.2f}x {who}" for who, rival in rivals]
    told = f"ours adaptive {reached:.2f}x ({speed:.1f} tokens/s)"
    return f"{row.weights}: {', '.join([told, *parts])}"


def _fastest(rows: Sequence[Row]) -> Row:
    return max(rows, key=lambda row: row.speedup.median)


def _told(who: str, row: Row) -> str:
    speed = f"{row.tokens_per_second.median:.1f} tokens/s"
    return f"{who} {row.speedup.median:.2f}x at width {row.width} ({speed})"


def _rich_table(rows: Sequence[Row]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in _COLUMNS:
        is_text = name in ("weights", "engine", "")
        table.add_column(name, justify="left" if is_text else "right", no_wrap=True)
    before: Row | None = None
    for row in rows:
        if before is not None and before.weights != row.weights:
            table.add_section()
        style = "dim" if row.note == "plain" else "bold" if "best" in row.note else ""
        table.add_row(*_cells(row), style=style)
        before = row
    return table


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.weights,
        row.engine,
        f"0-{row.width}" if row.engine == ADAPTIVE else str(row.width),
        _with_quartiles(row.tokens_per_second, 1),
        _with_quartiles(row.speedup, 2),
        f"{row.speedup_total:.2f}",
        f"{row.acceptance_length:.2f}",
        f"{row.same:.0%}",
        row.note,
    )


def _with_quartiles(spread: Spread, digits: int) -> str:
    low, high = f"{spread.low:.{digits}f}", f"{spread.high:.{digits}f}"
    return f"{spread.median:.{digits}f} ({low}-{high})"


def write_json(report: Report, file: Path) -> None:
    """Facts, rows, what was skipped, and every answer, so that all can be computed again."""
    content = {
        "schema": SCHEMA,
        **report.facts,
        "rows": [asdict(row) for row in report.rows],
        "skipped": report.skipped,
        "notes": report.notes,
        "answers": [record.as_dict() for record in report.records],
    }
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_csv(report: Report, file: Path) -> None:
    """One line for each engine, weights and width, with the machine and the versions."""
    facts = report.facts
    shared = {"date": facts["date"], **_joined(facts["hardware"])}
    shared |= {key: facts["options"][key] for key in ("threads", "max_tokens", "flash_attn")}
    shared |= {f"version {name}": version for name, version in facts["versions"].items()}
    lines = [{**_flat(row), **shared} for row in report.rows]
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(lines[0]) if lines else [])
        writer.writeheader()
        writer.writerows(lines)


def _joined(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: " ".join(v) if isinstance(v, list) else v for key, v in facts.items()}


def _flat(row: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in asdict(row).items():
        if isinstance(value, dict):
            flat |= {f"{name}_{part}": f"{number:.4g}" for part, number in value.items()}
        else:
            flat[name] = f"{value:.4g}" if isinstance(value, float) else value
    return flat

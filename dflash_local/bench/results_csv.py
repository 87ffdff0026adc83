"""One CSV file a machine: the medians of its runs, to be kept under ``benchmarks/results``."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .machine import name
from .report import Document

_MIB = 1 << 20
#: Rows of one run are told from those of others by these; a newer run takes their place.
_KEY = ("verifier", "drafter", "threads", "temperature", "dflash-local", "llama-cpp-python")


def write_csv(report: Document, folder: Path) -> Path:
    """Adds the run to the machine's file in ``folder``; returns the file."""
    rows = [_row(report, s) for s in report["summaries"] if s["category"] == "all"]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name()}.csv"
    kept = [row for row in _read(file) if _key(row) != _key(rows[0])]
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(rows[0]), extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows([*kept, *rows])
    return file


def _read(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as source:
        return list(csv.DictReader(source))


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(row.get(field, "")) for field in _KEY)


def _row(report: Document, summary: Mapping[str, Any]) -> dict[str, Any]:
    hardware, models, options = report["hardware"], report["models"], report["options"]
    return {
        "date": report["created"][:10],
        "cpu": hardware["cpu"],
        "gpu": " + ".join(hardware["gpus"]),
        "system": hardware["system"],
        "threads": options["threads"],
        **report["versions"],
        "verifier": models["verifier"]["file"],
        "weights": models["verifier"]["weights"],
        "drafter": models["drafter"]["file"],
        "temperature": options["temperature"],
        "max_tokens": options["max_tokens"],
        "n_prompts": options["n_prompts"],
        "rounds": options["repeat"],
        "mode": summary["mode"],
        "tokens_per_second": _median(summary["tokens_per_second"], 2),
        "speed_up": _median(summary["speed_up"], 3),
        "speed_up_low": _median(summary["speed_up"], 3, "low"),
        "speed_up_high": _median(summary["speed_up"], 3, "high"),
        "speed_up_total": _rounded(summary["speed_up_total"], 3),
        "speed_up_least": _rounded(summary["speed_up_least"], 3),
        "acceptance_length": _rounded(summary["acceptance_length"], 3),
        "first_token_ms": _median(summary["first_token"], 1, factor=1e3),
        "identical": _rounded(summary["identical"], 3),
        "score": _rounded(summary["score"], 3),
    }


def _median(
    spread: Mapping[str, float] | None, digits: int, which: str = "median", factor: float = 1.0
) -> float | str:
    return "" if spread is None else round(spread[which] * factor, digits)


def _rounded(value: float | None, digits: int) -> float | str:
    return "" if value is None else round(value, digits)

"""All children together: the table, and whether everything in it that should be zero is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from .children import Outcome

#: Bytes that a process may have more at the end than after its warm-up, whatever it loaded: a tiny
#: pair that is not freed takes 3 MiB.
MEMORY_BOUND = 2 << 20

_FINDINGS = {
    "signal": "signals",
    "hang": "hangs over a second",
    "wrong": "wrong answers",
    "error": "unexpected errors",
}
_LEFT = {
    "descriptors": "descriptors left open",
    "streams": "descriptors 1 and 2 changed",
    "log_callback": "log callback changed",
    "threads": "threads left",
}


def zeros(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """What there should be none of, by its name in the table."""
    outcomes = list(outcomes)
    kinds = Counter(kind for outcome in outcomes for kind, _ in outcome.findings)
    found = {name: kinds[kind] for kind, name in _FINDINGS.items()}
    for key, name in _LEFT.items():
        found[name] = sum(abs(outcome.left.get(key, 0)) for outcome in outcomes)
    grown = [outcome for outcome in outcomes if outcome.left.get("memory", 0) > MEMORY_BOUND]
    found[f"children grown by over {MEMORY_BOUND >> 20} MiB"] = len(grown)
    return found


def counts(outcomes: Iterable[Outcome]) -> Counter[str]:
    return sum((outcome.counts for outcome in outcomes), Counter())


def lines(outcomes: list[Outcome]) -> list[str]:
    """The table in Markdown."""
    made = ["| what was done | times |", "|---|---:|"]
    made += [f"| {name} | {n} |" for name, n in sorted(counts(outcomes).items())]
    made += ["", "| what should be none | |", "|---|---:|"]
    made += [f"| {name} | {n} |" for name, n in zeros(outcomes).items()]
    return [*made, "", _memory(outcomes)]


def _memory(outcomes: list[Outcome]) -> str:
    measured = [outcome for outcome in outcomes if outcome.left]
    if not measured:
        return "Memory was not measured: no child came to its end."
    grown = [outcome.left["memory"] / 2**20 for outcome in measured]
    loads = sum(outcome.loads for outcome in measured)
    return (
        f"Memory after the warm-up and at the end, {len(measured)} children, {loads} "
        f"loads: {min(grown):+.1f} to {max(grown):+.1f} MiB, {sum(grown) * 1024 / loads:+.1f} KiB "
        "a load."
    )

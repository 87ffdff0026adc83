"""``learning/report.md`` in the record's folder, and a line for each time in ``history.jsonl``."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dflash_local.files.fingerprint import fingerprint
from dflash_local.record.folder import write_private

from .replay import ERRORS

if TYPE_CHECKING:
    from .learning import Outcome


def write_report(outcome: Outcome) -> None:
    """Writes both; the texts are not in them."""
    write_private(outcome.report, to_markdown(outcome))
    history = outcome.report.with_name("history.jsonl")
    older = history.read_text(encoding="utf-8") if history.is_file() else ""
    write_private(history, older + json.dumps(to_json(outcome)) + "\n")


def to_json(outcome: Outcome) -> dict[str, Any]:
    """Plain values."""
    learned = outcome.learned
    return {
        "at": round(time.time()),
        "verifier": fingerprint(outcome.places.verifier),
        "drafter": fingerprint(outcome.places.to if outcome.in_place else outcome.places.drafter),
        "in_place": outcome.in_place,
        "minutes": round(outcome.minutes, 2),
        "paused": round(outcome.paused, 2),
        "learned_from": len(learned.texts),
        "replayed": len(learned.held_out),
        "recorded": learned.n_recorded,
        "of_other_verifiers": learned.n_others,
        "spoiled": learned.n_spoiled,
        "verdict": asdict(outcome.verdict),
    }


def to_markdown(outcome: Outcome) -> str:
    """To be read."""
    verdict, learned, places = outcome.verdict, outcome.learned, outcome.places
    return "\n".join(
        [
            f"# What {places.drafter.name} learned from use",
            "",
            summary(outcome),
            "",
            "| | tokens a step |",
            "| --- | ---: |",
            f"| before | {verdict.before:.3f} |",
            f"| after | {verdict.after:.3f} |",
            "",
            f"- replayed in the real loop, the verifier taken as greedy: {verdict.n_blocks} blocks "
            f"in {verdict.n_dialogues} dialogues that were not learned from",
            f"- standard error of the difference: {verdict.error:.3f}; a drafter is put in place "
            f"where it is better by more than {ERRORS:g} of them",
            f"- {len(learned.texts)} answers were learned from, of the newest {learned.n_recorded} "
            f"recorded ({learned.n_others} of other verifiers, {learned.n_spoiled} unreadable)",
            f"- {outcome.minutes:.1f} minutes of work, {outcome.paused:.1f} minutes of waiting",
            "",
        ]
    )


def summary(outcome: Outcome) -> str:
    """A line or two."""
    verdict, places = outcome.verdict, outcome.places
    figures = (
        f"{verdict.before:.2f} tokens a step before, {verdict.after:.2f} after "
        f"(standard error of the difference {verdict.error:.3f})"
    )
    if outcome.in_place:
        return (
            f"{figures}: the new drafter is {places.to}. The one before it is {places.before}; "
            "`dflash-local learn FOLDER --undo` swaps them."
        )
    return f"{figures}: not better beyond chance, so the drafter stays as it is."

"""What is said and written about an answer: the line under it, the JSON file, /stats."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, zip_longest
from pathlib import Path
from typing import Any

from dflash_local import Stats
from dflash_local.cli.conversation import Answer
from dflash_local.runtime.exact import ExactWidths
from dflash_local.runtime.widths import choice, shares, shares_text
from dflash_local.whole_files import write_whole

PHASES = ("prefill", "inject", "draft", "verify", "sample")


@dataclass(frozen=True)
class Setup:
    """What the answers were made with. Width 0: nothing is drafted; None: decided step by step."""

    verifier: Path
    drafter: Path | None
    width: int | None
    n_threads: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "verifier": str(self.verifier),
            "drafter": None if self.drafter is None else str(self.drafter),
            "width": self.width,
            "n_threads": self.n_threads,
        }


def report(answer: Answer, stats: Stats, setup: Setup) -> dict[str, Any]:
    """The statistics of one answer; ``tokens_per_second`` leaves out the time for the prompt."""
    first = answer.seconds_to_first_token
    generating = answer.seconds - (answer.seconds if first is None else first)
    # The first token comes with the prompt's last row: what it took belongs to the prompt.
    speed = (answer.n_tokens - 1) / generating if generating > 0 else 0.0
    return {
        # Without a drafter nothing is counted: there, each step gives one token.
        "acceptance_length": stats.acceptance_length if setup.drafter else 1.0,
        "acceptance_rate": stats.acceptance_rate,
        "drafted": stats.n_drafted,
        "accepted": stats.n_accepted,
        "accepted_per_position": list(stats.accepted_per_position),
        "drafted_per_width": list(stats.drafted_per_width),
        "verified_per_width": list(stats.verified_per_width),
        "tokens": answer.n_tokens,
        "prompt_tokens": answer.n_prompt_tokens,
        "tokens_per_second": speed,
        "seconds_to_first_token": first,
        "seconds_total": answer.seconds,
        "seconds": _phases(stats),
        "finish_reason": answer.finish_reason,
        **setup.as_dict(),
    }


def _phases(stats: Stats) -> dict[str, float]:
    return {phase: getattr(stats, f"seconds_{phase}") for phase in PHASES}


def one_line(facts: dict[str, Any]) -> str:
    """The line under an answer."""
    parts = [f"{facts['tokens']} tokens", f"{facts['tokens_per_second']:.1f} tokens/s"]
    if facts["drafted"]:
        parts.append(f"acceptance length {facts['acceptance_length']:.2f}")
        parts.append(f"accepted {facts['accepted']}/{facts['drafted']}")
    parts.append(_chosen(facts["width"], facts["verified_per_width"]))
    if facts["finish_reason"] == "length":
        parts.append("cut at --max-tokens")
    return " · ".join(parts)


def width_text(width: int | None) -> str:
    """The width of a session, in words."""
    if width is None:
        return "adaptive widths"
    return f"width {width}" if width else "plain decoding"


def _chosen(width: int | None, verified_per_width: Sequence[int]) -> str:
    """The width, or which ones adaptive widths chose."""
    if width is None and any(verified_per_width):
        return choice(shares(verified_per_width))
    return width_text(width)


def totals(
    stats: Stats, width: int | None, learned: Mapping[str, Sequence[float]] | None
) -> list[str]:
    """Lines for /stats: everything since the model was loaded, and what is known of the pair."""
    lines = [
        f"{stats.n_tokens} tokens in {stats.n_steps} steps",
        f"accepted {stats.n_accepted} of {stats.n_drafted} drafts "
        f"({stats.acceptance_rate:.0%}), acceptance length {stats.acceptance_length:.2f}",
    ]
    if stats.n_accepted:
        counts = " ".join(str(count) for count in stats.accepted_per_position)
        lines.append(f"accepted per position: {counts}")
    lines.append(_chosen(width, stats.verified_per_width))
    if any(stats.drafted_per_width[1:]):
        drafted = shares_text(shares(stats.drafted_per_width))
        verified = shares_text(shares(stats.verified_per_width))
        lines.append(f"steps by tokens drafted {drafted} · by drafts verified {verified}")
    times = " · ".join(f"{phase} {seconds:.2f}" for phase, seconds in _phases(stats).items())
    return [*lines, f"seconds: {times}", *_why(learned)]


def exact_text(found: ExactWidths, n_ctx: int) -> str:
    """A line for /stats: the widths that are exact, and in how many positions."""
    widths = " ".join(map(str, found.widths)) or "none"
    partly = found.widths and found.up_to < n_ctx
    return f"exact widths: {widths}" + (f", in {found.up_to} positions" if partly else "")


def _why(learned: Mapping[str, Sequence[float]] | None) -> Iterator[str]:
    """What widths are chosen by, as a table."""
    if learned is None or not learned["verify"][0]:
        return
    plain = learned["verify"][0]
    verify, draft = ([seconds / plain for seconds in learned[key]] for key in ("verify", "draft"))
    emitted = accumulate(accumulate(learned["accepted"], operator.mul), initial=1.0)
    accepted = ("-", *(f"{share:.0%}" for share in learned["accepted"]))
    rows = zip_longest(verify, draft, accepted, (f"{tokens:.2f}" for tokens in emitted))
    yield "a step pays where it emits more than verifying and drafting cost, in plain tokens:"
    yield "drafts  verify  draft  accepted  emits"
    for width, (to_verify, to_draft, share, tokens) in enumerate(rows):
        costs = f"{_cost(to_verify):>6}  {_cost(to_draft):>5}"
        yield f"{width:>6}  {costs}  {share or '-':>8}  {tokens or '-':>5}"


def _cost(in_tokens: float) -> str:
    return f"{in_tokens:.2f}" if in_tokens else "-"


def write_json(file: Path, facts: dict[str, Any]) -> None:
    """Write ``facts`` to ``file`` in one piece: a reader never sees half of it."""
    text = json.dumps(facts, indent=2) + "\n"
    if file.exists() and not file.is_file():  # a pipe or a device cannot be replaced
        file.write_text(text, encoding="utf-8")
        return
    write_whole(file, text)

"""The interleaved rounds: each prompt goes through every variant before the next prompt."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .answer import Answer, Record, Variant
from .engine import UnavailableError
from .worker import Worker

# Threads of the engine before spin for a moment when their work is done.
PAUSE = 0.02
_WARM_UP_TOKENS = 8

Progress = Callable[[int, int, str], None]


@dataclass
class Plan:
    """What is measured on one kind of weights.

    Attributes:
        workers: who answers, variant by variant, in the order of the table.
        skipped: engines that fell out on the way, and why; filled in.
    """

    weights: str
    prompts: Sequence[Sequence[int]]
    max_tokens: int
    rounds: int
    workers: dict[Variant, Worker]
    skipped: dict[str, str] = field(default_factory=dict)


def measure(plan: Plan, *, deadline: float | None, progress: Progress) -> list[Record]:
    """All answers of the plan, after a warm-up.

    The order of the variants turns by one from pass to pass, so that none always follows the same
    one. A failing engine leaves the plan, with its answers so far.

    Args:
        deadline: on ``time.monotonic``: no pass begins after it, but for the first.
        progress: is told passes done, passes planned and what runs.
    """
    for variant in list(plan.workers):
        progress(0, plan.rounds * len(plan.prompts), f"warming up {variant.engine}")
        _try_answer(plan, variant, plan.prompts[0], min(_WARM_UP_TOKENS, plan.max_tokens))
    records: list[Record] = []
    passes = [(round_, i) for round_ in range(plan.rounds) for i in range(len(plan.prompts))]
    for n_done, (round_, prompt) in enumerate(passes):
        if n_done and deadline is not None and time.monotonic() > deadline:
            break
        for variant in _turned(list(plan.workers), n_done):
            progress(n_done, len(passes), f"{variant.engine} {variant.width}")
            answer = _try_answer(plan, variant, plan.prompts[prompt], plan.max_tokens)
            if answer is not None:
                records.append(Record(plan.weights, variant, prompt, round_, answer))
    return records


def _turned(variants: list[Variant], n: int) -> list[Variant]:
    n %= max(1, len(variants))
    return variants[n:] + variants[:n]


def _try_answer(
    plan: Plan, variant: Variant, prompt: Sequence[int], max_tokens: int
) -> Answer | None:
    worker = plan.workers.get(variant)
    if worker is None:  # its process fell out in this very pass
        return None
    time.sleep(PAUSE)
    try:
        return worker.answer(variant, prompt, max_tokens)
    except UnavailableError as error:
        for other in [v for v, w in plan.workers.items() if w is worker]:
            del plan.workers[other]
            plan.skipped[other.engine] = str(error)
        return None

"""What decodes cost by their width, on this machine and at this context length."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import islice, pairwise
from statistics import median
from typing import Any

import llama_cpp

from dflash_local import Llama
from dflash_local.errors import BackendError

#: Rounds over all widths: no fewer, no more, and no new one after so many seconds.
_LEAST, _MOST, _SECONDS = 3, 15, 30.0
_PLAIN_TOKENS = 3


@dataclass(frozen=True)
class Staircase:
    """Median seconds, measured apart from the answers, widths taking turns.

    Attributes:
        n_context: tokens before the block.
        plain: one token of stock ``llama_cpp.Llama.generate``.
        verify: [w]: one decode of an anchor and w drafts; [0] is a single token.
        draft: [w]: one block of the drafter that gives w drafts; [0] is 0.
    """

    n_context: int
    plain: float
    verify: list[float]
    draft: list[float]


def measure_staircase(plain: llama_cpp.Llama, llm: Llama, context: list[int]) -> Staircase:
    """Drafts and verifies after ``context`` at every width; nothing is kept.

    Raises:
        BackendError: the model has no session.
    """
    session = llm.session
    if session is None or session.drafter is None:
        raise BackendError("without a drafter there are no costs by width to measure")
    widths = range(session.drafter.max_width + 1)
    verify: list[list[float]] = [[] for _ in widths]
    draft: list[list[float]] = [[] for _ in widths]
    tokens: list[float] = []
    before, start = llm.width, time.perf_counter()
    try:
        for n_done in range(_MOST):
            if n_done >= _LEAST and time.perf_counter() - start > _SECONDS:
                break
            tokens += _plain_tokens(plain, context)
            # Up and down in turn: a machine that slows down does so for all widths.
            for width in widths if n_done % 2 else reversed(widths):
                seconds = _step_seconds(llm, session, context, width)
                verify[width].append(seconds[0])
                draft[width].append(seconds[1])
    finally:
        llm.width = before
        llm.reset()
    return Staircase(
        n_context=len(context),
        plain=median(tokens),
        verify=[median(values) for values in verify],
        draft=[median(values) for values in draft],
    )


def _plain_tokens(plain: llama_cpp.Llama, context: list[int]) -> list[float]:
    times = []
    for _ in islice(plain.generate(context, temp=0.0), _PLAIN_TOKENS + 1):
        times.append(time.perf_counter())
    return [later - earlier for earlier, later in pairwise(times)]


def _step_seconds(llm: Llama, session: Any, context: list[int], width: int) -> tuple[float, float]:
    """(verify, draft) of one step that is discarded."""
    # Never 0: the features of the context are there for the other widths.
    llm.width = max(1, width)
    # Where a memory cannot take single tokens back, discarding the last step took everything.
    if not session.anchored or session.n_past != len(context):
        session.sync(context)
        session.step()
    before = session.total_stats
    session.propose([] if width == 0 else None)
    after = session.total_stats
    session.discard()
    return (
        after.seconds_verify - before.seconds_verify,
        after.seconds_draft - before.seconds_draft,
    )

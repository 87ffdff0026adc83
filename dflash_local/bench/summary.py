"""All measures of one mode, over all prompts or those of a category."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .measures import (
    Spread,
    acceptance_length,
    acceptance_rate,
    all_steps,
    drift,
    exact_share,
    identical_share,
    largest_margin,
    least_speed_up,
    part_medians,
    part_seconds,
    per_position,
    score,
    speed_up_total,
    speed_ups,
    spread,
    throughput,
    token_gaps,
    verified_shares,
)
from .record import PLAIN, Answer, Difference


@dataclass(frozen=True)
class Summary:
    """The measures of one mode over one category ("all": every category). Times in seconds.

    None: there was nothing to measure it on.

    Attributes:
        mode: "plain", "adaptive", or the width as a string.
        per_position: [k]: share of blocks with at least k + 1 drafts accepted.
        tokens_per_second: spread over the answers.
        widths: [w]: share of steps in which w drafts were verified.
        speed_up: spread over the pairs: its median is that of the median answer.
        speed_up_least: of the prompts' medians over the rounds.
        speed_up_total: plain seconds per token over this mode's, all answers together.
        first_token: time to first token.
        per_token_p50: of the time between two tokens; those of one step come together.
        answer: whole answers, prompt included.
        identical: share of answers equal to plain ones; None above temperature 0.
        exact: share of the steps that gave plain decoding's logits to the bit; None where that is
            not known.
        largest_margin: see ``Difference``; None where nothing differs.
        drift: see ``drift``.
        part_seconds, part_medians: of a step; empty where there are none.
    """

    mode: str
    category: str
    n_answers: int
    n_tokens: int
    acceptance_length: float | None
    acceptance_rate: float | None
    per_position: list[float]
    widths: list[float]
    tokens_per_second: Spread | None
    speed_up: Spread | None
    speed_up_least: float | None
    speed_up_total: float | None
    first_token: Spread | None
    per_token_p50: float | None
    per_token_p95: float | None
    answer: Spread | None
    identical: float | None
    exact: float | None
    largest_margin: float | None
    score: float | None
    drift: float | None
    part_seconds: Mapping[str, float]
    part_medians: Mapping[str, float]


def summarize(
    answers: Sequence[Answer],
    mode: str,
    category: str = "all",
    *,
    differences: Sequence[Difference] = (),
    greedy: bool = True,
    exact_widths: Sequence[int] | None = None,
) -> Summary:
    """The measures of ``mode``; ``answers`` holds the plain ones too."""
    among = [a for a in answers if category in ("all", a.category)]
    own = [a for a in among if a.mode == mode]
    steps, gaps, speculative = all_steps(own), token_gaps(own), mode != PLAIN
    known = {answer.prompt for answer in own}
    least = least_speed_up(among, mode) if speculative else None
    return Summary(
        mode=mode,
        category=category,
        n_answers=len(own),
        n_tokens=sum(answer.n_tokens for answer in own),
        acceptance_length=acceptance_length(steps),
        acceptance_rate=acceptance_rate(steps),
        per_position=per_position(steps),
        widths=verified_shares(steps),
        tokens_per_second=spread(filter(None, map(throughput, own))),
        speed_up=spread(speed_ups(among, mode)) if speculative else None,
        speed_up_least=None if least is None else least[1],
        speed_up_total=speed_up_total(among, mode) if speculative else None,
        first_token=spread(answer.times[0] for answer in own),
        per_token_p50=float(np.quantile(gaps, 0.5)) if gaps else None,
        per_token_p95=float(np.quantile(gaps, 0.95)) if gaps else None,
        answer=spread(answer.times[-1] for answer in own),
        identical=identical_share(among, mode) if speculative and greedy else None,
        exact=exact_share(steps, exact_widths),
        largest_margin=largest_margin((d for d in differences if d.prompt in known), mode),
        score=score(own),
        drift=drift(among, mode),
        part_seconds=part_seconds(steps) if steps else {},
        part_medians=part_medians(steps) if steps else {},
    )

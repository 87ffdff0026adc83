"""How close the call was where a speculative answer leaves the plain one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import llama_cpp
import numpy as np

from .measures import first_difference, pairs
from .record import Answer, Difference


def find_differences(
    plain: llama_cpp.Llama, prompts: Mapping[str, list[int]], answers: Sequence[Answer]
) -> list[Difference]:
    """Every first difference between a greedy answer and the plain one, with its margin.

    The plain answer is decoded again, row by row as it was, so its logits are the same.
    """
    found = list(dict.fromkeys(_positions(answers)))
    differences = []
    for prompt in dict.fromkeys(prompt for prompt, _, _ in found):
        places = [(mode, position) for name, mode, position in found if name == prompt]
        said = next(a.tokens for a in answers if a.prompt == prompt and a.mode == "plain")
        margins = _margins(plain, prompts[prompt], said, {position for _, position in places})
        differences += [
            Difference(prompt, mode, position, margins[position]) for mode, position in places
        ]
    return differences


def _positions(answers: Sequence[Answer]) -> list[tuple[str, str, int]]:
    places = []
    for mode in dict.fromkeys(answer.mode for answer in answers if answer.mode != "plain"):
        for plain, other in pairs(answers, mode):
            position = first_difference(plain.tokens, other.tokens)
            if position is not None and position < len(plain.tokens):
                places.append((plain.prompt, mode, position))
    return places


def _margins(
    plain: llama_cpp.Llama, prompt: list[int], said: list[int], positions: set[int]
) -> dict[int, float]:
    plain.reset()
    plain.eval(prompt)
    margins = {}
    for position in range(max(positions) + 1):
        if position in positions:
            margins[position] = _margin(plain)
        plain.eval([said[position]])
    return margins


def _margin(llm: llama_cpp.Llama) -> float:
    """The best logit after the last token less the second best."""
    row = llama_cpp.llama_get_logits_ith(llm._ctx.ctx, -1)
    logits = np.ctypeslib.as_array(row, shape=(llm.n_vocab(),))
    second, best = np.partition(logits, -2)[-2:]
    return float(best - second)

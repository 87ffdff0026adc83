"""Our answers beside those of upstream's loop, with the tokens drafted and accepted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
import upstream
from exactness import END

from dflash_local import Finish, Session
from dflash_local.files.drafter_file import read_drafter


def counts(session: Session, prompt: Sequence[int], n_tokens: int) -> tuple[list[int], int, int]:
    """A greedy answer with the tokens drafted and accepted, as upstream counts them."""
    session.sync(prompt)
    answer: list[int] = []
    n_drafted = n_accepted = 0
    finish = Finish.none
    while len(answer) < n_tokens and finish == Finish.none:
        step = session.step(max_tokens=n_tokens - len(answer))
        answer += step.tokens
        n_drafted += step.n_drafted
        n_accepted += step.n_accepted
        finish = step.finish
        all_drafts = len(step.tokens) == step.n_accepted < step.n_drafted
        if finish == Finish.end_of_generation and all_drafts:
            n_accepted -= 1  # upstream takes an end within a draft for the correction
    return answer, n_drafted, n_accepted


@dataclass(frozen=True)
class Ours:
    """What we said to a prompt, with the end that belongs to it, and what we counted."""

    prompt: list[int]
    tokens: list[int]
    answer: upstream.Answer


def our_answer(llm: llama_cpp.Llama, session: Session, prompt: list[int], n_tokens: int) -> Ours:
    tokens, n_drafted, n_accepted = counts(session, prompt, n_tokens)
    said = list(tokens)
    while said and said[-1] in (*END, llm.token_eos()):
        said.pop()
    text = llm.detokenize(said, prev_tokens=prompt).decode()
    return Ours(prompt, tokens, upstream.Answer(text, n_drafted, n_accepted))


def kind(drafter: Path) -> str:
    return "dspark" if read_drafter(drafter).kind == "dspark" else "dflash"


def same_text(
    ours: list[Ours], theirs: list[upstream.Answer], least_equal: float
) -> list[tuple[Ours, upstream.Answer]]:
    """The answers with one text in both, which at least a share of all have."""
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a.answer.text == b.text]
    assert len(pairs) >= least_equal * len(ours)
    drafted, accepted = (sum(getattr(b, n) for _, b in pairs) for n in ("n_drafted", "n_accepted"))
    assert 0 < accepted < drafted
    return pairs

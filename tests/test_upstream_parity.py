"""The same files, greedily, at the same draft length: we draft and accept as many tokens as
llama.cpp's own loop. Wrong layers, flags, rows or masks all show here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
import upstream
from exactness import DRAFTERS, END, ONE_THREAD, session_on, tiny_prompts, tokenize

import dflash_local
from dflash_local import Finish, Session
from dflash_local.drafter_file import read_drafter

pytestmark = pytest.mark.skipif(
    find_spec("xllamacpp") is None, reason="xllamacpp, llama.cpp's server as a wheel, is missing"
)

MakeLlama = Callable[..., Any]
N_TOKENS = 64


def _counts(session: Session, prompt: Sequence[int], n_tokens: int) -> tuple[list[int], int, int]:
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


def _answer(
    llm: llama_cpp.Llama, session: Session, prompt: Sequence[int], n_tokens: int
) -> upstream.Answer:
    tokens, n_drafted, n_accepted = _counts(session, prompt, n_tokens)
    while tokens and tokens[-1] in (*END, llm.token_eos()):
        tokens.pop()
    text = llm.detokenize(tokens, prev_tokens=list(prompt)).decode()
    return upstream.Answer(text, n_drafted, n_accepted)


def _kind(drafter: Path) -> str:
    return "dspark" if read_drafter(drafter).kind == "dspark" else "dflash"


def _compare(
    ours: list[upstream.Answer], theirs: list[upstream.Answer], least_equal: float
) -> None:
    """Counts agree wherever the texts do, and at least a share of the texts does."""
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a.text == b.text]
    assert len(pairs) >= least_equal * len(ours)
    assert [a for a, _ in pairs] == [b for _, b in pairs]
    drafted, accepted = (sum(getattr(a, n) for a, _ in pairs) for n in ("n_drafted", "n_accepted"))
    assert 0 < accepted < drafted


@pytest.mark.parametrize("width", [1, 3, 5, 7])
@pytest.mark.parametrize("name", DRAFTERS)
def test_counts_equal_those_of_upstreams_loop(
    name: str,
    width: int,
    make_llama: MakeLlama,
    tiny_verifier: Path,
    tiny_drafters: dict[str, Path],
) -> None:
    drafter = tiny_drafters[name]
    llm = make_llama(
        dflash_local.Llama,
        tiny_verifier,
        drafter=drafter,
        width=min(width, read_drafter(drafter).max_width),
        **ONE_THREAD,
    )
    prompts = tiny_prompts(llm, 16, seed=6)
    request = upstream.Request(
        str(tiny_verifier), str(drafter), _kind(drafter), llm.width, prompts, N_TOKENS
    )
    ours = [_answer(llm, llm.session, prompt, N_TOKENS) for prompt in prompts]
    _compare(ours, upstream.answers(request), least_equal=0.9)


QUESTIONS = (
    "What is the capital of France?",
    "Count from one to ten.",
    "Why is the sky blue?",
    "Write a haiku about the sea.",
)


@pytest.mark.parametrize("width", [3, 7])
def test_counts_of_the_real_pair_equal_those_of_upstreams_loop(
    width: int, make_llama: MakeLlama, smollm2: Path, smollm2_drafter: Path
) -> None:
    llm = make_llama(
        dflash_local.Llama, smollm2, drafter=smollm2_drafter, width=width, **ONE_THREAD
    )
    prompts = [
        tokenize(llm, f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")
        for question in QUESTIONS
    ]
    request = upstream.Request(
        str(smollm2), str(smollm2_drafter), "dflash", width, prompts, n_tokens=32
    )
    ours = [_answer(llm, llm.session, prompt, 32) for prompt in prompts]
    # In BF16 the two libraries may round differently.
    _compare(ours, upstream.answers(request), least_equal=0.5)


@pytest.mark.parametrize("name", DRAFTERS)
def test_counts_differ_when_the_target_layers_are_off_by_one(
    name: str, make_llama: MakeLlama, tiny_verifier: Path, tiny_drafters: dict[str, Path]
) -> None:
    """A test of the test."""
    stock = make_llama(llama_cpp.Llama, tiny_verifier, **ONE_THREAD)
    prompts = tiny_prompts(stock, 8, seed=6)
    answers = []
    for shift in (0, -1):
        layers = [layer + shift for layer in read_drafter(tiny_drafters[name]).target_layers]
        with session_on(stock, tiny_drafters[name], layers) as session:
            answers.append([_answer(stock, session, prompt, N_TOKENS) for prompt in prompts])
    right, wrong = answers
    assert [a.text for a in right] == [a.text for a in wrong]
    assert sum(a.n_accepted for a in wrong) < 0.9 * sum(a.n_accepted for a in right)

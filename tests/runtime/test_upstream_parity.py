"""The same files, greedily, at the same draft length: we draft and accept as many tokens as
llama.cpp's own loop. Wrong layers, flags, rows or masks all show here."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
import upstream
from exactness import DRAFTERS, ONE_THREAD, session_on, tiny_prompts, tokenize
from reachable import reachable
from upstream_counts import Ours, counts, kind, our_answer, same_text

import dflash_local
from dflash_local.files.drafter_file import read_drafter

pytestmark = pytest.mark.skipif(
    find_spec("xllamacpp") is None, reason="xllamacpp, llama.cpp's server as a wheel, is missing"
)

MakeLlama = Callable[..., Any]
N_TOKENS = 64


#: At most as wide as the drafter gives.
WIDTHS = [(name, width) for name in DRAFTERS for width in (1, 3, 5, 7)]
WIDTHS = [(name, width) for name, width in WIDTHS if name != "dflash-b4" or width <= 3]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "width"), WIDTHS)
def test_counts_equal_those_of_upstreams_loop(
    name: str,
    width: int,
    make_llama: MakeLlama,
    tiny_verifier: Path,
    tiny_drafters: dict[str, Path],
) -> None:
    drafter = tiny_drafters[name]
    llm = make_llama(dflash_local.Llama, tiny_verifier, drafter=drafter, width=width, **ONE_THREAD)
    prompts = tiny_prompts(llm, 12, seed=6)
    request = upstream.Request(
        str(tiny_verifier), str(drafter), kind(drafter), width, prompts, N_TOKENS
    )
    ours = [our_answer(llm, llm.session, prompt, N_TOKENS) for prompt in prompts]
    for a, b in same_text(ours, upstream.answers(request), least_equal=0.9):
        assert a.answer == b


#: In F32 no draft and no token of their answers is decided by less than 0.025 of a logit, many
#: times what F32 rounds.
QUESTIONS = (
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "What are three tips for better sleep?",
    "Explain what photosynthesis is.",
)
#: BF16 moves a logit of the drafter by up to 0.21 from where F32 has it: in two builds, and for the
#: two logits that are compared, four times as much.
BF16_MARGIN = 1.0


def _real_pair(
    llm: dflash_local.Llama, width: int, n_tokens: int
) -> tuple[list[Ours], list[upstream.Answer]]:
    """The same questions to us and to upstream's loop."""
    llm.width = width
    prompts = [
        tokenize(llm, f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")
        for question in QUESTIONS
    ]
    files = (str(llm.model_path), str(llm.drafter_path))
    request = upstream.Request(*files, "dflash", width, prompts, n_tokens)
    ours = [our_answer(llm, llm.session, prompt, n_tokens) for prompt in prompts]
    return ours, upstream.answers(request)


@pytest.fixture(scope="module")
def real_f32(
    make_module_llama: MakeLlama, smollm2_f32: Path, smollm2_drafter_f32: Path
) -> dflash_local.Llama:
    drafter = smollm2_drafter_f32
    return make_module_llama(dflash_local.Llama, smollm2_f32, drafter=drafter, **ONE_THREAD)


@pytest.mark.slow
@pytest.mark.parametrize("width", [3, 7])
def test_counts_of_the_real_pair_equal_those_of_upstreams_loop(
    width: int, real_f32: dflash_local.Llama
) -> None:
    ours, theirs = _real_pair(real_f32, width, n_tokens=16)
    assert [a.answer for a in ours] == theirs


@pytest.mark.slow
def test_counts_of_the_real_pair_in_bf16_are_within_what_rounding_can_do(
    make_llama: MakeLlama, smollm2: Path, smollm2_drafter: Path
) -> None:
    real = make_llama(dflash_local.Llama, smollm2, drafter=smollm2_drafter, **ONE_THREAD)
    ours, theirs = _real_pair(real, 7, n_tokens=16)
    for a, b in same_text(ours, theirs, least_equal=0.5):
        if a.answer != b:
            possible = reachable(real.session, a.prompt, a.tokens, 16, BF16_MARGIN)
            assert (b.n_drafted, b.n_accepted) in possible


@pytest.mark.slow
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
            answers.append(
                [our_answer(stock, session, prompt, N_TOKENS).answer for prompt in prompts]
            )
    right, wrong = answers
    assert [a.text for a in right] == [a.text for a in wrong]
    assert sum(a.n_accepted for a in wrong) < 0.9 * sum(a.n_accepted for a in right)


@pytest.mark.slow
def test_reachable_counts_are_those_of_the_text_and_not_of_other_layers(
    make_llama: MakeLlama, tiny_verifier: Path, tiny_drafters: dict[str, Path]
) -> None:
    """A test of the test: where nothing ties there is one way, and rounding opens few others."""
    stock = make_llama(llama_cpp.Llama, tiny_verifier, **ONE_THREAD)
    drafter, prompts = tiny_drafters["dflash-b8"], tiny_prompts(stock, 8, seed=6)
    layers = [layer - 1 for layer in read_drafter(drafter).target_layers]
    with session_on(stock, drafter, layers) as session:
        wrong = [counts(session, prompt, N_TOKENS) for prompt in prompts]
    n_found = 0
    with session_on(stock, drafter) as session:
        for prompt, (tokens, *found) in zip(prompts, wrong, strict=True):
            right = counts(session, prompt, N_TOKENS)
            assert right[0] == tokens
            assert reachable(session, prompt, tokens, N_TOKENS, 0.0) == {right[1:]}
            assert right[1:] in reachable(session, prompt, tokens, N_TOKENS, BF16_MARGIN)
            n_found += tuple(found) not in reachable(session, prompt, tokens, N_TOKENS, BF16_MARGIN)
    assert n_found > len(prompts) / 2

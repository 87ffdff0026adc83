"""SmolLM2-135M in BF16 with the demo's drafter, end to end: it drafts well, and the answers are the
verifier's own. BF16 rounds batches and single rows differently, so a text may part from plain
decoding, but only where two logits nearly tie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from exactness import ONE_THREAD, assert_mixed, first_difference, greedy, rounding, tokenize

import dflash_local

MakeLlama = Callable[..., Any]
N_TOKENS = 48
WIDTH = 4
QUESTIONS = (
    "Explain what photosynthesis is.",
    "Write a short story about a dog.",
    "What are three tips for better sleep?",
)
#: Twice the rounding of a logit in BF16 (`rounding`: up to 0.35), with room for other machines.
MARGIN = 1.0


@pytest.fixture(scope="module")
def llm(make_module_llama: MakeLlama, smollm2: Path, smollm2_drafter: Path) -> dflash_local.Llama:
    llm: dflash_local.Llama = make_module_llama(
        dflash_local.Llama, smollm2, drafter=smollm2_drafter, width=WIDTH, **ONE_THREAD
    )
    return llm


@pytest.fixture(scope="module")
def stock(make_module_llama: MakeLlama, smollm2: Path) -> llama_cpp.Llama:
    """Plain decoding; it keeps the logits of all rows, to measure how they round."""
    options = {**ONE_THREAD, "n_ctx": 256, "logits_all": True}
    llm: llama_cpp.Llama = make_module_llama(llama_cpp.Llama, smollm2, **options)
    return llm


def _prompt(llm: llama_cpp.Llama, question: str) -> list[int]:
    return tokenize(llm, f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.slow
@pytest.mark.parametrize("question", QUESTIONS)
def test_an_answer_drafts_well_and_is_the_verifiers_own(
    question: str, llm: dflash_local.Llama, stock: llama_cpp.Llama
) -> None:
    tokens = _prompt(stock, question)
    drafted = greedy(llm, tokens, N_TOKENS)
    last = llm.stats.last
    assert last.acceptance_length > 1.2
    assert_mixed((0, 0), (last.n_drafted, last.n_accepted))
    difference = first_difference(stock, tokens, greedy(stock, tokens, N_TOKENS), drafted)
    assert difference is None or difference.explained(MARGIN), difference


def test_the_margin_is_twice_the_rounding_that_is_measured(stock: llama_cpp.Llama) -> None:
    tokens = _prompt(stock, QUESTIONS[0])
    assert 2 * rounding(stock, tokens + greedy(stock, tokens, 16)) < MARGIN


def test_a_chat_completion_drafts(llm: dflash_local.Llama) -> None:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    answer = llm.create_chat_completion(messages, max_tokens=32, temperature=0.0)
    assert "Paris" in answer["choices"][0]["message"]["content"]
    assert llm.stats.last.n_accepted > 0

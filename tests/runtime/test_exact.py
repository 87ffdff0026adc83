"""Drafting changes nothing about a greedy answer: F32 weights, F32 K/V, CPU, fixed seeds."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from exactness import (
    DRAFTERS,
    ONE_THREAD,
    assert_mixed,
    counts,
    first_difference,
    generated,
    greedy,
    random_prompts,
    rounding,
    tiny_prompts,
    tokenize,
)
from rpc_servers import DRAFTERS_AWAY

import dflash_local
from dflash_local.files.drafter_file import read_drafter

MakeLlama = Callable[..., Any]
N_TOKENS = 48
#: Every drafter at home, and some with a model on a server.
everywhere = pytest.mark.parametrize(
    ("llm", "placement"),
    [*((name, "home") for name in DRAFTERS), *DRAFTERS_AWAY],
    indirect=True,
    scope="module",
)

#: How near the best logit two tokens have to lie for rounding to choose between them: at least
#: twice what `rounding` finds, with room for other machines (found: F32 2e-5, F16 0.015, BF16 0.11,
#: Q8_0 0.15, rarely). The median distance of the best two logits is 8.
MARGIN = {"f32": 2e-4, "f16": 0.06, "bf16": 0.3, "q8_0": 0.5, "q4_0": 0.8}


@dataclass(frozen=True)
class Answer:
    prompt: list[int]
    tokens: list[int]


@pytest.fixture(scope="module")
def stock(make_module_llama: MakeLlama, tiny_verifier: Path) -> llama_cpp.Llama:
    """The verifier in an unmodified llama_cpp.Llama."""
    return make_module_llama(llama_cpp.Llama, tiny_verifier, **ONE_THREAD)


@pytest.fixture(scope="module")
def answers(stock: llama_cpp.Llama) -> list[Answer]:
    """Stock greedy answers to 24 prompts."""
    prompts = tiny_prompts(stock, 24, seed=1)
    return [Answer(tokens, greedy(stock, tokens, N_TOKENS)) for tokens in prompts]


@pytest.fixture(scope="module", params=DRAFTERS)
def llm(
    request: pytest.FixtureRequest,
    make_module_llama: MakeLlama,
    tiny_verifier: Path,
    tiny_drafters: dict[str, Path],
) -> Iterator[dflash_local.Llama]:
    """The verifier with each of the drafters."""
    drafter = tiny_drafters[request.param]
    llm = make_module_llama(dflash_local.Llama, tiny_verifier, drafter=drafter, **ONE_THREAD)
    yield llm
    llm.close()


@pytest.fixture(autouse=True)
def _full_width(request: pytest.FixtureRequest) -> None:
    if "llm" in request.fixturenames:
        llm = request.getfixturevalue("llm")
        llm.width = read_drafter(llm.drafter_path).max_width


def test_every_drafter_is_tested(tiny_drafters: dict[str, Path]) -> None:
    assert set(tiny_drafters) == set(DRAFTERS)


# ---- the same tokens -----------------------------------------------------------------------


@pytest.mark.slow
@everywhere
def test_greedy_tokens_equal_plain_decoding_at_every_width(
    llm: dflash_local.Llama, answers: list[Answer]
) -> None:
    assert llm.drafter_path is not None
    for width in range(read_drafter(llm.drafter_path).max_width + 1):
        llm.width = width
        before = counts(llm)
        for answer in answers[width % 2 :: 2]:  # each of them at every second width
            assert greedy(llm, answer.prompt, N_TOKENS) == answer.tokens, width
        if width == 0:
            assert counts(llm) == before
        else:
            assert_mixed(before, counts(llm))


@pytest.mark.slow
@everywhere
def test_tokens_taken_row_by_row_equal_plain_decoding(
    llm: dflash_local.Llama, answers: list[Answer]
) -> None:
    before = counts(llm)
    for answer in answers[:12]:
        rows = llm.generate(answer.prompt, temp=0.0, stopping_criteria=lambda *_: False)
        assert generated(rows, N_TOKENS) == answer.tokens
    assert_mixed(before, counts(llm))


@pytest.mark.slow
def test_streamed_chunks_equal_those_of_plain_decoding(
    llm: dflash_local.Llama, stock: llama_cpp.Llama, answers: list[Answer]
) -> None:
    before = counts(llm)
    for answer in answers[:12]:
        assert _chunks(llm, answer.prompt) == _chunks(stock, answer.prompt)
    assert_mixed(before, counts(llm))


def _chunks(llm: llama_cpp.Llama, tokens: list[int]) -> list[tuple[str, str | None]]:
    stream = llm.create_completion(tokens, max_tokens=N_TOKENS, temperature=0.0, stream=True)
    return [(chunk["choices"][0]["text"], chunk["choices"][0]["finish_reason"]) for chunk in stream]


# As the verifier learnt it, but for the city, and with no friend.
GRAMMAR = r"""
root ::= name age city likes "}"
name ::= "{\"name\": \"" [a-z]{1,6}
age ::= "\", \"age\": " [0-9]{1,2}
city ::= ", \"city\": \"" ("oslo" | "delhi")
likes ::= "\", \"likes\": [\"" [a-z]{1,6} "\", \"" [a-z]{1,6} "\"]"
"""


@pytest.mark.slow
@everywhere
def test_answers_within_a_grammar_equal_those_of_plain_decoding(
    llm: dflash_local.Llama, stock: llama_cpp.Llama
) -> None:
    before = counts(llm)
    for name in ("anna", "emil", "june", "ivan"):
        text = f"<|im_start|>user\nGive me {name} as JSON.<|im_end|>\n<|im_start|>assistant\n"
        tokens = tokenize(stock, text)
        plain = _constrained(stock, tokens)
        assert _constrained(llm, tokens) == plain
        assert plain.endswith("]}")
        assert plain not in stock.create_completion(tokens, temperature=0.0)["choices"][0]["text"]
    assert_mixed(before, counts(llm))


def _constrained(llm: llama_cpp.Llama, tokens: list[int]) -> str:
    grammar = llama_cpp.LlamaGrammar.from_string(GRAMMAR, verbose=False)
    answer = llm.create_completion(tokens, max_tokens=96, temperature=0.0, grammar=grammar)
    text: str = answer["choices"][0]["text"]
    return text


@everywhere
def test_chat_turns_that_reuse_their_prefix_equal_plain_ones(
    llm: dflash_local.Llama, stock: llama_cpp.Llama
) -> None:
    questions = ("Who is anna?", "Start at 12 and add 7, 4 times.", "Give me june as JSON.")
    messages: list[dict[str, str]] = [{"role": "system", "content": "You are a tiny model."}]
    before = counts(llm)
    for turn, question in enumerate(questions):
        messages.append({"role": "user", "content": question})
        plain, _ = _reply(stock, messages)
        reply, n_prompt = _reply(llm, messages)
        assert reply == plain
        # A later turn reads what is new alone: the question, and the marks around it.
        assert turn == 0 or llm.stats.last.n_prompt < n_prompt / 2
        messages.append({"role": "assistant", "content": reply})
    assert_mixed(before, counts(llm))


def _reply(llm: llama_cpp.Llama, messages: list[dict[str, str]]) -> tuple[str, int]:
    answer = llm.create_chat_completion(messages, max_tokens=64, temperature=0.0)
    return answer["choices"][0]["message"]["content"], answer["usage"]["prompt_tokens"]


# ---- where rounding decides ----------------------------------------------------------------


@dataclass
class Campaign:
    """Random prompts, and the differences they led to."""

    n_answers: int = 0
    n_different: int = 0
    largest_gap: float = 0.0

    def run(
        self, llm: llama_cpp.Llama, stock: llama_cpp.Llama, plain: list[Answer], margin: float
    ) -> None:
        for answer in plain:
            drafted = greedy(llm, answer.prompt, 24)
            difference = first_difference(stock, answer.prompt, answer.tokens, drafted)
            self.n_answers += 1
            if difference is not None:
                assert difference.explained(margin), f"{difference} after {answer.prompt}"
                self.n_different += 1
                self.largest_gap = max(self.largest_gap, difference.gap)


@pytest.fixture(scope="module")
def random_answers(stock: llama_cpp.Llama) -> list[Answer]:
    """Stock greedy answers to 120 random prompts."""
    prompts = random_prompts(stock, 120, seed=2)
    return [Answer(tokens, greedy(stock, tokens, 24)) for tokens in prompts]


@pytest.mark.slow
def test_random_prompts_differ_only_where_rounding_decides(
    llm: dflash_local.Llama, stock: llama_cpp.Llama, random_answers: list[Answer]
) -> None:
    before = counts(llm)
    campaign = Campaign()
    campaign.run(llm, stock, random_answers, MARGIN["f32"])
    assert campaign.n_different <= 2, campaign
    assert_mixed(before, counts(llm))


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["f16", "bf16", "q8_0", "q4_0"])
def test_other_weights_differ_only_where_rounding_decides(
    weights: str,
    make_llama: MakeLlama,
    tiny_verifier: Path,
    tiny_drafters: dict[str, Path],
    tmp_path: Path,
) -> None:
    verifier = _quantized(tiny_verifier, weights, tmp_path)
    stock = make_llama(llama_cpp.Llama, verifier, **ONE_THREAD)
    drafter = tiny_drafters["dflash-b8"]
    llm = make_llama(dflash_local.Llama, verifier, drafter=drafter, **ONE_THREAD)
    campaign = Campaign()
    prompts = tiny_prompts(stock, 40, seed=3) + random_prompts(stock, 40, seed=4)
    plain = [Answer(tokens, greedy(stock, tokens, 24)) for tokens in prompts]
    campaign.run(llm, stock, plain, MARGIN[weights])
    assert campaign.n_different <= campaign.n_answers / 4, campaign
    assert_mixed((0, 0), counts(llm))


def _quantized(verifier: Path, weights: str, folder: Path) -> Path:
    """The verifier in other weights, by libllama's own quantiser."""
    path = folder / f"verifier-{weights}.gguf"
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{weights.upper()}")
    source, target = str(verifier).encode(), str(path).encode()
    assert llama_cpp.llama_model_quantize(source, target, ctypes.byref(params)) == 0
    return path


@pytest.mark.slow
@pytest.mark.parametrize("weights", list(MARGIN))
def test_the_margins_hold_the_rounding_measured_and_few_of_the_choices(
    weights: str, make_llama: MakeLlama, tiny_verifier: Path, tmp_path: Path
) -> None:
    path = tiny_verifier if weights == "f32" else _quantized(tiny_verifier, weights, tmp_path)
    llm = make_llama(llama_cpp.Llama, path, logits_all=True, **ONE_THREAD)
    measured, choices = 0.0, []
    for tokens in tiny_prompts(llm, 12, seed=3) + random_prompts(llm, 12, seed=4):
        text = tokens + greedy(llm, tokens, N_TOKENS)
        measured = max(measured, rounding(llm, text))
        best = np.sort(llm.scores[len(tokens) - 1 : len(text) - 1], axis=1)
        choices += [*(best[:, -1] - best[:, -2])]
    assert 2 * measured < MARGIN[weights]
    assert np.mean(np.array(choices) < MARGIN[weights]) < 0.2


def test_a_difference_that_rounding_does_not_explain_is_found(
    stock: llama_cpp.Llama, answers: list[Answer]
) -> None:
    found = 0
    for answer in answers:
        wrong = list(answer.tokens)
        wrong[len(wrong) // 2] = 5  # a byte of no text here
        difference = first_difference(stock, answer.prompt, answer.tokens, wrong)
        assert difference is not None
        assert difference.position == len(wrong) // 2
        found += not difference.explained(MARGIN["q4_0"])
        short = first_difference(stock, answer.prompt, answer.tokens, answer.tokens[:-1])
        assert short is not None
        assert not short.explained(MARGIN["q4_0"])
    assert found == len(answers)

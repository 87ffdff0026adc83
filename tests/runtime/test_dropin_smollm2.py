"""llama-cpp-python's own tests of ``Llama`` on a real model: plain, and with the demo's drafter.

In F32, where a prompt that is read in other parts rounds to the same answer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from conftest import MakeLlama, check_drafts
from llama_cpp import LlamaGrammar, LogitsProcessorList

from dflash_local import Llama

FOX = "The quick brown fox jumps over the lazy dog. The quick brown fox"
DAYS = "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday, Monday, Tuesday,"
NEXT_DAYS = " Wednesday, Thursday, Friday,"
NUMBERS = 'root ::= "1" | "2" | "3" | "4" | "5" | "6" | "7" | "8" | "9" | "10"'
N_TOKENS = 12

MakeModel = Callable[[], Llama]


@pytest.fixture(scope="module", params=["plain", "drafter"])
def make(
    request: pytest.FixtureRequest,
    make_module_llama: MakeLlama,
    smollm2_f32: Path,
    smollm2_drafter_f32: Path,
) -> MakeModel:
    """Gives models as if just loaded: three in turn, for loading takes longer than the tests."""
    drafter = smollm2_drafter_f32 if request.param == "drafter" else None
    options: dict[str, Any] = {"n_ctx": 128, "n_batch": 64, "n_ubatch": 64, "drafter": drafter}
    options["width"] = 3  # a wide step of real weights takes long on one thread
    models = itertools.cycle([make_module_llama(Llama, smollm2_f32, **options) for _ in range(3)])

    def fresh() -> Llama:
        llm: Llama = next(models)
        llm.reset()
        llm._sampler = None
        llm.set_cache(None)
        llm.__dict__.pop("reset", None)
        llm.__dict__.pop("load_state", None)
        return llm

    return fresh


def text_of(response: Any) -> str:
    return str(response["choices"][0]["text"])


def generated(llm: Llama, tokens: list[int], n: int = N_TOKENS) -> list[int]:
    return list(itertools.islice(llm.generate(tokens, temp=0.0), n))


def counted(llm: Llama, name: str) -> list[Any]:
    """The calls of a method from now on."""
    calls: list[Any] = []
    original = getattr(llm, name)

    def call(*args: Any) -> Any:
        calls.append(args)
        return original(*args)

    setattr(llm, name, call)
    return calls


@pytest.mark.slow
def test_a_known_sentence_goes_on(make: MakeModel) -> None:
    llm = make()
    output = llm.create_completion(DAYS, max_tokens=6, top_k=50, top_p=0.9, temperature=0, seed=1)
    assert text_of(output) == NEXT_DAYS
    check_drafts(llm, rejected=False)


@pytest.mark.slow
def test_an_answer_drafts_and_says_the_same_again(make: MakeModel) -> None:
    llm, other = make(), make()
    messages: Any = [{"role": "user", "content": "Explain what photosynthesis is."}]
    first = llm.create_chat_completion(messages, max_tokens=24, temperature=0)
    check_drafts(llm)
    assert "photosynthesis" in first["choices"][0]["message"]["content"].lower()
    second = other.create_chat_completion(messages, max_tokens=24, temperature=0)
    assert second["choices"] == first["choices"]


@pytest.mark.slow
def test_a_grammar_holds(make: MakeModel) -> None:
    llm = make()
    output = llm.create_completion(
        "The capital of france is paris, 'true' or 'false'?:\n",
        max_tokens=4,
        temperature=0.8,
        seed=1337,
        grammar=LlamaGrammar.from_string('root ::= "true" | "false"'),
    )
    assert text_of(output) in ("true", "false")
    listing = LlamaGrammar.from_string(
        'root ::= ("The quick brown fox jumps over the lazy dog. ")+'
    )
    output = llm.create_completion(FOX + "\n", max_tokens=30, temperature=0, grammar=listing)
    assert text_of(output).startswith("The quick brown fox jumps over the lazy dog. The quick")
    check_drafts(llm, rejected=False)


def test_a_logits_processor_is_obeyed(make: MakeModel) -> None:
    llm = make()
    wanted = llm.tokenize(b"rot", add_bos=True, special=True)

    def favour(_: Any, logits: Any) -> Any:
        logits[wanted] = 1000.0
        return logits

    output = llm.create_completion(
        "The capital of france is par",
        max_tokens=4,
        temperature=0.8,
        seed=1337,
        logits_processor=LogitsProcessorList([favour]),
    )
    assert text_of(output).lower().startswith("rot")


@pytest.mark.slow
def test_a_restored_seed_repeats_the_draw(make: MakeModel) -> None:
    llm = make()

    def draw() -> str:
        output = llm.create_completion(
            "Pick a number from 1 to 10?:\n",
            max_tokens=4,
            temperature=1.0,
            min_p=0.0,
            top_p=1.0,
            grammar=LlamaGrammar.from_string(NUMBERS),
        )
        return text_of(output)

    llm.set_seed(1337)
    state = llm.save_state()
    draws = [draw() for _ in range(4)]
    assert len(set(draws)) > 1
    llm.load_state(state)
    assert [draw() for _ in range(4)] == draws


@pytest.mark.slow
def test_a_repeated_prompt_gives_the_same(make: MakeModel) -> None:
    llm = make()
    outputs = [llm.create_completion(DAYS, max_tokens=6, temperature=0, seed=1) for _ in range(3)]
    assert {text_of(output) for output in outputs} == {NEXT_DAYS}
    check_drafts(llm, rejected=False)


@pytest.mark.slow
def test_an_edited_history_gives_what_a_fresh_model_does(make: MakeModel) -> None:
    llm, fresh = make(), make()
    first, second = ("The quick brown fox", "The slow brown fox")
    assert llm.tokenize(first.encode())[0] == llm.tokenize(second.encode())[0]
    llm.create_completion(first, max_tokens=N_TOKENS, temperature=0)
    output = llm.create_completion(second, max_tokens=N_TOKENS, temperature=0)
    expected = fresh.create_completion(second, max_tokens=N_TOKENS, temperature=0)
    assert text_of(output) == text_of(expected)
    assert output["usage"] == expected["usage"]


@pytest.mark.slow
def test_an_exact_cached_prompt_is_not_read_again(make: MakeModel) -> None:
    fresh, cached = make(), make()
    tokens = fresh.tokenize(FOX.encode(), add_bos=True, special=True)
    expected = generated(fresh, tokens)
    cached.eval(tokens)
    assert cached.n_tokens == len(tokens)
    assert cached.input_ids[: cached.n_tokens].tolist() == tokens
    assert cached.sample(temp=0.0, idx=len(tokens) - 1) == expected[0]
    resets = counted(cached, "reset")
    assert generated(cached, tokens) == expected
    assert resets == []
    assert cached.n_tokens == len(tokens) + N_TOKENS - 1
    check_drafts(cached)
    assert cached.stats.last.n_prompt == 0


@pytest.mark.slow
def test_a_restored_exact_prompt_gives_what_a_fresh_model_does(make: MakeModel) -> None:
    fresh, source, loaded = make(), make(), make()
    tokens = fresh.tokenize(FOX.encode(), add_bos=True, special=True)
    expected = generated(fresh, tokens)
    source.eval(tokens)
    state = source.save_state()
    loaded.eval([*tokens[:-1], loaded.token_eos()])  # as long, and another last token
    assert loaded.sample(temp=0.0, idx=len(tokens) - 1) != expected[0]
    loaded.load_state(state)
    assert loaded.n_tokens == len(tokens)
    assert loaded.input_ids[: loaded.n_tokens].tolist() == tokens
    assert generated(loaded, tokens) == expected
    assert loaded.n_tokens == len(tokens) + N_TOKENS - 1
    check_drafts(loaded)


@pytest.mark.slow
def test_a_ram_cache_hit_gives_what_a_fresh_model_does(make: MakeModel) -> None:
    fresh, writer, cached = make(), make(), make()
    tokens = fresh.tokenize(FOX.encode(), add_bos=True, special=True)
    options: dict[str, Any] = {"max_tokens": N_TOKENS, "temperature": 0.0, "seed": 1337}
    expected = fresh.create_completion(tokens, **options)
    cache = llama_cpp.LlamaRAMCache()
    writer.set_cache(cache)
    writer.create_completion(tokens, **options)
    cached.set_cache(cache)
    loads = counted(cached, "load_state")
    actual = cached.create_completion(tokens, **options)
    assert len(loads) == 1
    assert text_of(actual) == text_of(expected)
    assert actual["usage"] == expected["usage"]
    check_drafts(cached)


@pytest.mark.slow
def test_a_shorter_prefix_gives_what_a_fresh_model_does(make: MakeModel) -> None:
    fresh, cached = make(), make()
    tokens = fresh.tokenize(b"The quick brown fox", add_bos=True, special=True)
    history = fresh.tokenize(b" jumps over the lazy dog", add_bos=False, special=True)
    expected = generated(fresh, tokens)
    cached.eval(tokens + history)
    assert cached.n_tokens > len(tokens)
    assert generated(cached, tokens) == expected
    check_drafts(cached, rejected=False)


def test_a_forced_tool_call_is_json(make: MakeModel) -> None:
    llm = make()
    llm.chat_format, before = "chatml-function-calling", llm.chat_format
    weather = {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    try:
        response = llm.create_chat_completion(
            [{"role": "user", "content": "Weather in Paris?"}],
            tools=[weather],
            tool_choice={"type": "function", "function": {"name": "weather"}},
            temperature=0,
            max_tokens=32,
        )
    finally:
        llm.chat_format = before
    call = response["choices"][0]["message"]["tool_calls"][0]["function"]
    assert call["name"] == "weather"
    assert call["arguments"].lstrip().startswith("{")

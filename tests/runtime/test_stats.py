"""Statistics count what was handed out, wherever in a block an answer ends."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeLlama
from llama_cpp import LogitsProcessorList, StoppingCriteriaList

from dflash_local import Llama
from dflash_local.bench.asking import ask

PROMPT = "the brown"


@pytest.fixture(scope="module")
def shared(
    make_module_llama: MakeLlama, tiny_verifier: Path, tiny_drafters: dict[str, Path]
) -> Llama:
    llm: Llama = make_module_llama(Llama, tiny_verifier, drafter=tiny_drafters["dflash-b8"])
    return llm


@pytest.fixture
def llm(shared: Llama) -> Llama:
    shared.reset()
    return shared


def _options(form: str) -> dict[str, Any]:
    """By row is how steps are taken where somebody has a say in each token."""
    if form == "by step":
        return {}
    return {"logits_processor": LogitsProcessorList([lambda _, scores: scores])}


forms = pytest.mark.parametrize("form", ["by step", "by row"])


def _start(llm: Llama, form: str = "by step", **options: Any) -> Iterator[int]:
    tokens = llm.tokenize(PROMPT.encode())
    return llm.generate(tokens, temp=0.0, **_options(form), **options)


def check_adds_up(llm: Llama, n_tokens: int) -> None:
    """Every figure of the last answer is of the tokens that were handed out."""
    stats = llm.stats.last
    assert stats.n_tokens == n_tokens
    assert stats.acceptance_length * stats.n_steps == pytest.approx(max(0, n_tokens - 1))
    assert sum(stats.accepted_per_position) == stats.n_accepted
    assert stats.n_accepted <= max(0, n_tokens - 1)
    assert stats.n_accepted <= stats.n_drafted
    assert sum(stats.verified_per_width) == stats.n_steps


@pytest.mark.parametrize("max_tokens", range(1, 24))
def test_an_answer_that_its_limit_ends_counts_as_its_usage(llm: Llama, max_tokens: int) -> None:
    answer = llm.create_completion(PROMPT, max_tokens=max_tokens, temperature=0.0)
    assert answer["choices"][0]["finish_reason"] == "length"
    check_adds_up(llm, answer["usage"]["completion_tokens"])


@forms
def test_a_stop_string_inside_a_block_ends_what_is_counted(llm: Llama, form: str) -> None:
    whole = llm.create_completion(PROMPT, max_tokens=40, temperature=0.0)["choices"][0]["text"]
    counts = set()
    for at in range(3, len(whole) - 6, 3):
        llm.reset()
        answer = llm.create_completion(
            PROMPT, max_tokens=40, temperature=0.0, stop=[whole[at : at + 4]], **_options(form)
        )
        assert answer["choices"][0]["finish_reason"] == "stop"
        check_adds_up(llm, answer["usage"]["completion_tokens"])
        counts.add(llm.stats.last.n_tokens)
    assert len(counts) > 3


def test_streams_count_alike(llm: Llama) -> None:
    whole = llm.create_completion(PROMPT, max_tokens=30, temperature=0.0)["choices"][0]["text"]
    stop = whole[9:13]
    answer = llm.create_completion(PROMPT, max_tokens=30, temperature=0.0, stop=[stop])
    llm.reset()
    chunks = list(
        llm.create_completion(PROMPT, max_tokens=30, temperature=0.0, stop=[stop], stream=True)
    )
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    check_adds_up(llm, answer["usage"]["completion_tokens"])


def test_while_an_answer_runs_only_what_is_out_counts(llm: Llama) -> None:
    generator = _start(llm)
    for n, _ in enumerate(itertools.islice(generator, 30), 1):
        check_adds_up(llm, n)


@forms
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13, 14, 15])
def test_an_abandoned_generator_counts_what_it_gave(llm: Llama, form: str, n: int) -> None:
    before = llm.stats.total
    generator = _start(llm, form)
    assert len(list(itertools.islice(generator, n))) == n
    generator.close()  # type: ignore[attr-defined]
    check_adds_up(llm, n)
    total = llm.stats.total
    assert total.n_tokens - before.n_tokens == n
    assert total.n_accepted - before.n_accepted == llm.stats.last.n_accepted
    assert total.n_drafted - before.n_drafted == llm.stats.last.n_drafted


def test_an_answer_that_another_one_displaces_counts_what_it_gave(llm: Llama) -> None:
    before = llm.stats.total.n_tokens
    first = _start(llm)
    list(itertools.islice(first, 7))
    assert len(list(itertools.islice(_start(llm), 4))) == 4
    assert llm.stats.total.n_tokens - before == 7 + 4
    first.close()  # type: ignore[attr-defined]
    check_adds_up(llm, 4)
    assert llm.stats.total.n_tokens - before == 7 + 4


@forms
@pytest.mark.parametrize("n", [0, 1, 4, 6, 11])
def test_a_token_that_stopping_criteria_keep_back_is_not_counted(
    llm: Llama, form: str, n: int
) -> None:
    n_prompt = len(llm.tokenize(PROMPT.encode()))
    criteria = StoppingCriteriaList([lambda ids, _: len(ids) >= n_prompt + n])
    given = list(_start(llm, form, stopping_criteria=criteria))
    assert len(given) == n
    check_adds_up(llm, n)


@forms
def test_the_end_of_generation_is_handed_out_and_counts(llm: Llama, form: str) -> None:
    llm.reset()
    question = "what is 12 + 7 ?"
    answer = llm.create_chat_completion(
        [{"role": "user", "content": question}], temperature=0.0, **_options(form)
    )
    assert answer["choices"][0]["finish_reason"] == "stop"
    check_adds_up(llm, answer["usage"]["completion_tokens"] + 1)


def test_a_bench_answer_is_made_of_its_steps(llm: Llama) -> None:
    for n in (1, 2, 9, 14, 15):
        llm.reset()
        said, _, steps, _ = ask(llm, llm.tokenize(PROMPT.encode()), n, 0.0)
        assert len(said) == n
        assert sum(step.n_emitted for step in steps) == n - 1
        assert all(step.n_emitted == step.n_accepted + 1 for step in steps[:-1])
        assert all(step.seconds["verify"] > 0 for step in steps)


def test_what_a_session_gives_at_once_is_handed_out(llm: Llama) -> None:
    session = llm.session
    assert session is not None
    session.sync(llm.tokenize(PROMPT.encode()))
    session.start_answer()
    emitted = [session.step().tokens for _ in range(4)]
    check_adds_up(llm, sum(map(len, emitted)))
    session.withhold(len(emitted[-1]))
    check_adds_up(llm, sum(map(len, emitted[:-1])))
    with pytest.raises(ValueError, match="the last step emitted"):
        session.withhold(len(emitted[-1]) + 1)

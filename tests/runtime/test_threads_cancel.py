"""Cancelling: what is at work can be stopped, and nothing else is."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import at_work
import llama_cpp
import pytest
from at_work import LONG_PROMPT, PROMPTS, SOON, Worker, answer, start, wait_until
from conftest import MakeLlama
from llama_cpp import LogitsProcessorList, StoppingCriteriaList

from dflash_local import Cancelled, Llama

# pytest finds fixtures by the names of a module.
drafter = at_work.drafter
expected = at_work.expected
shared = at_work.shared
llm = at_work.llm


@pytest.fixture(scope="module")
def reader(make_module_llama: MakeLlama, tiny_verifier: Path, drafter: Path | None) -> Llama:
    """Reads long prompts in small chunks."""
    llm: Llama = make_module_llama(
        Llama, tiny_verifier, drafter=drafter, n_ctx=8192, n_batch=64, n_ubatch=64
    )
    return llm


def ways_to_cancel(llm: Llama) -> list[Callable[[], Any]]:
    assert llm.session is not None
    return [llm.cancel, llm.session.cancel]


def test_a_long_read_is_cancelled(reader: Llama, expected: dict[str, Any]) -> None:
    for cancel in ways_to_cancel(reader):
        reader.reset()
        thread = Worker(lambda: reader.create_completion(LONG_PROMPT, max_tokens=4))
        wait_until(lambda: reader.n_tokens > 100)
        cancel()
        assert isinstance(thread.ended(SOON), Cancelled)
        assert 0 < reader.n_tokens < len(LONG_PROMPT)
        assert reader.stats.last.n_prompt == reader.n_tokens
        assert answer(reader, PROMPTS[0]) == expected[PROMPTS[0]]


def test_a_chunk_is_cut_short(
    make_llama: MakeLlama, tiny_verifier: Path, drafter: Path | None, expected: dict[str, Any]
) -> None:
    """One chunk of thousands of tokens takes seconds: the whole prompt is one decode."""
    size = {"n_ctx": 8192, "n_batch": 8192, "n_ubatch": 8192}
    llm = make_llama(Llama, tiny_verifier, drafter=drafter, **size)
    thread = Worker(lambda: llm.eval(LONG_PROMPT))
    wait_until(lambda: llm._turns.at_work)
    time.sleep(0.05)
    assert llm.cancel(wait=True, timeout=SOON)
    assert isinstance(thread.ended(SOON), Cancelled)
    assert llm.n_tokens == 0
    assert answer(llm, PROMPTS[0]) == expected[PROMPTS[0]]


def test_an_embedding_is_cancelled(
    make_llama: MakeLlama, tiny_verifier: Path, drafter: Path | None
) -> None:
    size = {"n_ctx": 8192, "n_batch": 8192, "n_ubatch": 8192}
    pooling = llama_cpp.LLAMA_POOLING_TYPE_NONE
    llm = make_llama(
        Llama, tiny_verifier, drafter=drafter, embedding=True, pooling_type=pooling, **size
    )
    thread = Worker(lambda: llm.embed("anna " * 4000))
    wait_until(lambda: llm._turns.at_work)
    time.sleep(0.05)
    assert llm.cancel(wait=True, timeout=SOON)
    assert isinstance(thread.ended(SOON), Cancelled)
    assert llm.n_tokens == 0


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("k", [1, 2, 5, 20])
def test_a_streaming_answer_is_cancelled_between_its_tokens(
    llm: Llama, expected: dict[str, Any], k: int, by_row: bool
) -> None:
    options = {"logits_processor": LogitsProcessorList([lambda _, row: row])} if by_row else {}
    generator = start(llm, PROMPTS[0], **options)
    assert list(itertools.islice(generator, k)) == expected[PROMPTS[0]][:k]
    llm.cancel()
    with pytest.raises(Cancelled):
        next(generator)
    assert list(generator) == []
    assert llm.n_tokens == len(llm.tokenize(PROMPTS[0].encode())) + k - 1
    assert answer(llm, PROMPTS[0]) == expected[PROMPTS[0]]


def test_a_stream_of_another_thread_is_cancelled(llm: Llama, expected: dict[str, Any]) -> None:
    chunks: list[Any] = []

    def stream() -> None:
        for chunk in llm.create_completion(PROMPTS[0], max_tokens=400, temperature=0, stream=True):
            chunks.append(chunk)
            time.sleep(0.001)

    for cancel in ways_to_cancel(llm):
        chunks.clear()
        thread = Worker(stream)
        wait_until(lambda: len(chunks) > 3)
        cancel()
        assert isinstance(thread.ended(SOON), Cancelled)
        assert len(chunks) < 300
    assert answer(llm, PROMPTS[0]) == expected[PROMPTS[0]]


def test_a_cancel_while_nothing_is_at_work_reaches_nobody(
    llm: Llama, expected: dict[str, Any]
) -> None:
    llm.cancel()
    assert answer(llm, PROMPTS[0]) == expected[PROMPTS[0]]
    llm.cancel()
    llm.eval([5, 6, 7])
    llm.save_state()


@pytest.mark.slow
def test_stop_and_ask_again_at_once(llm: Llama, expected: dict[str, Any]) -> None:
    for i in range(200):
        old = Worker(lambda: answer(llm, PROMPTS[1], 400))
        wait_until(lambda: llm._turns.answering)
        llm.cancel()
        prompt = PROMPTS[i % len(PROMPTS)]
        assert answer(llm, prompt, 10) == expected[prompt][:10]
        assert isinstance(old.ended(), Cancelled)


@pytest.mark.slow
def test_a_thousand_random_cancellations(llm: Llama, expected: dict[str, Any]) -> None:
    """Every answer is right as far as it came, and the model stays in agreement with itself."""
    rng = random.Random(5)
    at_work = threading.Event()
    done = threading.Event()
    n_cancelled = 0

    def cancel() -> None:
        while not done.is_set():
            at_work.wait(1)
            time.sleep(rng.random() * 0.004)
            llm.cancel()

    thread = Worker(cancel)
    for i in itertools.count():
        prompt = PROMPTS[i % len(PROMPTS)]
        found: list[int] = []
        at_work.set()
        try:
            for token in itertools.islice(start(llm, prompt), 40):
                found.append(token)
        except Cancelled:
            n_cancelled += 1
        at_work.clear()
        assert found == expected[prompt][: len(found)]
        if n_cancelled == 1000:
            break
    done.set()
    thread.ended()
    for prompt in PROMPTS:
        assert answer(llm, prompt) == expected[prompt]


def test_who_waits_for_the_end_of_a_call_does_not_wait_for_the_next_ones(
    reader: Llama, expected: dict[str, Any]
) -> None:
    reader.reset()
    first = Worker(lambda: reader.create_completion(LONG_PROMPT, max_tokens=4))
    wait_until(lambda: reader.n_tokens > 100)
    second = Worker(lambda: reader.create_completion(LONG_PROMPT[5:], max_tokens=4))
    wait_until(lambda: reader._turns.n_waiting)
    assert reader.cancel(wait=True, timeout=SOON)
    assert second.is_alive()
    assert isinstance(first.ended(), Cancelled)
    reader.cancel()
    second.ended()
    assert answer(reader, PROMPTS[0]) == expected[PROMPTS[0]]


def test_a_signal_handler_may_cancel(llm: Llama, expected: dict[str, Any]) -> None:
    """It runs in the thread that is at work, so it must not wait for itself."""
    calls = itertools.count()

    def hook(*_: Any) -> bool:
        if next(calls) == 6:
            assert llm.cancel(wait=True)
        return False

    generator = start(llm, PROMPTS[0], stopping_criteria=StoppingCriteriaList([hook]))
    found: list[int] = []
    with pytest.raises(Cancelled):
        found.extend(generator)
    assert found == expected[PROMPTS[0]][: len(found)]
    assert 6 <= len(found) <= 7
    assert answer(llm, PROMPTS[0]) == expected[PROMPTS[0]]

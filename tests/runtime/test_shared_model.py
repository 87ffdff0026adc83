"""One model and several threads: what llama_cpp does around an answer is safe too."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from conftest import MakeLlama
from waiting import wait_until

from dflash_local import BackendError, Llama

PROMPT = "the brown"


@pytest.fixture(params=["plain", "dflash-b8"])
def llm(
    request: pytest.FixtureRequest,
    make_llama: MakeLlama,
    tiny_verifier: Path,
    tiny_drafters: dict[str, Path],
) -> Llama:
    made: Llama = make_llama(Llama, tiny_verifier, drafter=tiny_drafters.get(request.param))
    return made


def in_threads(*works: Callable[[], object]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_ctrl_c_ends_the_waiting_for_a_turn(llm: Llama) -> None:
    begun, over = threading.Event(), threading.Event()

    def hold() -> None:
        answer = llm.generate([5, 6], temp=0.0)
        next(answer)
        begun.set()
        over.wait()

    def interrupt() -> None:
        wait_until(lambda: llm._turns.n_waiting, "a call that waits")
        os.kill(os.getpid(), signal.SIGINT)

    threads = [threading.Thread(target=work) for work in (hold, interrupt)]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threads[0].start()
        begun.wait()
        threads[1].start()
        with pytest.raises(KeyboardInterrupt):
            llm.eval([5])
    finally:
        over.set()
        for thread in threads:
            thread.join()
        signal.signal(signal.SIGINT, before)
    assert llm._turns.n_waiting == 0
    llm.eval([5])


# ---- closed --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "use",
    [
        lambda llm: llm.tokenize(b"anna is"),
        lambda llm: llm.tokenizer().tokenize(b"anna is"),
        lambda llm: llm.create_completion(PROMPT, max_tokens=2),
        lambda llm: llm.create_chat_completion([{"role": "user", "content": PROMPT}]),
        lambda llm: llm.create_embedding(PROMPT),
        lambda llm: llm.n_ctx(),
        lambda llm: llm.n_vocab(),
        lambda llm: llm.token_eos(),
    ],
)
def test_a_closed_model_says_so_whatever_is_asked_of_it(
    llm: Llama, use: Callable[[Llama], Any]
) -> None:
    llm.close()
    with pytest.raises(BackendError, match="closed"):
        use(llm)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_a_stream_of_a_model_that_was_closed_says_so(llm: Llama, k: int) -> None:
    stream = llm.create_completion(PROMPT, max_tokens=40, temperature=0, stream=True)
    for _ in range(k):
        next(stream)
    llm.close()
    with pytest.raises(BackendError, match="closed"):
        list(stream)


def test_close_waits_for_a_thread_that_asks_libllama_outside_its_turn(
    llm: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each token llama_cpp asks libllama whether it ends the answer, outside any turn."""
    is_eog = llama_cpp.llama_vocab_is_eog
    freed: list[bool] = []
    closing: list[threading.Thread] = []

    def ask(vocab: Any, token: int) -> bool:
        if not closing:
            closing.append(threading.Thread(target=llm.close))
            closing[0].start()
            closing[0].join(0.05)
        freed.append(llm._model.model is None)
        return False if freed[-1] else bool(is_eog(vocab, token))

    monkeypatch.setattr(llama_cpp.llama_cpp, "llama_vocab_is_eog", ask)
    with pytest.raises(BackendError, match="closed"):
        llm.create_completion(PROMPT, max_tokens=40, temperature=0)
    closing[0].join()
    assert freed[0] is False
    assert llm._model.model is None


def test_a_model_that_a_hook_closes_is_freed_when_the_completion_has_ended(llm: Llama) -> None:
    seen: list[bool] = []

    def close(*_: Any) -> bool:
        llm.close()
        seen.append(llm._model.model is None)
        return False

    criteria = llama_cpp.StoppingCriteriaList([close])
    with pytest.raises(BackendError, match="closed"):
        llm.create_completion(PROMPT, max_tokens=40, stopping_criteria=criteria)
    assert seen == [False]
    assert llm._model.model is None


# ---- whose answer it is --------------------------------------------------------------------


def test_an_answer_is_not_taken_over_by_a_thread_that_got_the_number_of_an_ended_one(
    llm: Llama,
) -> None:
    stream = llm.generate(llm.tokenize(PROMPT.encode()), temp=0.0)
    llm.turn_timeout = 0
    errors: list[BackendError] = []

    def ask() -> None:
        try:
            next(llm.generate([5, 6]))
        except BackendError as error:
            errors.append(error)

    for _ in range(10):
        in_threads(lambda: next(stream))  # this thread took the last token, and ended
        in_threads(ask)
    assert len(errors) == 10
    assert all("another thread" in str(error) for error in errors)


def test_ctrl_c_right_after_a_decode_leaves_a_model_that_answers_as_before(
    llm: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = llm.tokenize(PROMPT.encode())
    expected = list(itertools.islice(llm.generate(tokens, temp=0.0), 20))

    def interrupted(_: int) -> None:
        """Comes when tokens are decoded and not yet counted."""
        raise KeyboardInterrupt

    for k in range(1, 4):
        generator = llm.generate(tokens, temp=0.0)
        assert list(itertools.islice(generator, k)) == expected[:k]
        with monkeypatch.context() as patch:
            patch.setattr(llm._timeline, "append", interrupted)
            with pytest.raises(KeyboardInterrupt):
                next(generator)
        asked = [*tokens, *expected[: k - 1]]  # what the model holds, as far as it knows
        found = list(itertools.islice(llm.generate(asked, temp=0.0), 10))
        assert found == expected[k - 1 : k + 9]


# ---- seeds ---------------------------------------------------------------------------------


def sampled(llm: Any, seed: int) -> str:
    answer = llm.create_completion(PROMPT, max_tokens=24, temperature=1.5, seed=seed)
    return str(answer["choices"][0]["text"])


@pytest.mark.slow
def test_every_thread_gets_the_answer_of_its_own_seed(
    llm: Llama, make_llama: MakeLlama, tiny_verifier: Path
) -> None:
    stock = make_llama(llama_cpp.Llama, tiny_verifier)
    expected = {seed: sampled(stock, seed) for seed in range(4)}
    assert len(set(expected.values())) > 1
    found: list[tuple[int, str]] = []

    def ask(seed: int) -> None:
        found.extend((seed, sampled(llm, seed)) for _ in range(40))

    in_threads(*(lambda seed=seed: ask(seed) for seed in expected))  # type: ignore[misc]
    assert set(found) == set(expected.items())


def test_a_seed_that_one_thread_sets_is_the_next_answers_in_another(llm: Llama) -> None:
    """As in llama_cpp, where all threads share it."""

    def generate() -> list[int]:
        tokens = llm.tokenize(PROMPT.encode())
        generator = llm.generate(tokens, temp=1.5)
        return [next(generator) for _ in range(20)]

    texts = []
    for seed in (5, 6, 5):
        sampled(llm, 1)
        in_threads(lambda seed=seed: llm.set_seed(seed))  # type: ignore[misc]
        texts.append(generate())
    assert texts[0] == texts[2] != texts[1]

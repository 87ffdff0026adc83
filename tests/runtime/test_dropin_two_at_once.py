"""Generators, calls and threads that want one model at once: each gets the right tokens."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import abandoned
import pytest
from abandoned import OTHER, PROSE, check_agreement, check_usable, generated, start
from conftest import check_drafts
from llama_cpp import StoppingCriteriaList

from dflash_local import BackendError, Cancelled, Llama

# pytest finds fixtures by the names of a module.
drafter = abandoned.drafter
expected = abandoned.expected
shared = abandoned.shared
llm = abandoned.llm


@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_of_two_generators_the_older_one_is_told(
    llm: Llama, expected: dict[str, list[int]], k: int
) -> None:
    older, newer = start(llm, PROSE), start(llm, OTHER)
    assert list(itertools.islice(older, k)) == expected[PROSE][:k]
    first = next(newer)
    with pytest.raises(BackendError, match="finish or close"):
        next(older)
    assert [first, *itertools.islice(newer, 30)] == expected[OTHER][:31]
    check_drafts(llm)
    older.close()
    newer.close()
    check_agreement(llm)
    check_usable(llm, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "intruder",
    [
        lambda llm: llm.reset(),
        lambda llm: llm.eval([5, 6]),
        lambda llm: llm.load_state(llm.save_state()),
        lambda llm: llm("anna is", max_tokens=3, temperature=0),
        lambda llm: llm.sample(temp=0.0),
    ],
    ids=["reset", "eval", "load_state", "completion", "sample"],
)
@pytest.mark.parametrize("k", [1, 2, 4])
def test_what_takes_the_model_from_a_running_generator_ends_it(
    llm: Llama, expected: dict[str, list[int]], intruder: Callable[[Llama], Any], k: int
) -> None:
    generator = start(llm, PROSE)
    list(itertools.islice(generator, k))
    intruder(llm)
    with pytest.raises(BackendError, match="finish or close"):
        next(generator)
    check_usable(llm, expected)


@pytest.mark.parametrize(
    "reader",
    [
        lambda llm: llm.tokenize(b"anna is"),
        lambda llm: llm.save_state(),
        lambda llm: llm.stats,
        lambda llm: (llm.session.tokens, repr(llm.session)),
        lambda llm: (llm.n_tokens, llm.eval_tokens),
    ],
    ids=["tokenize", "save_state", "stats", "session", "fields"],
)
def test_what_only_reads_does_not_disturb_it(
    llm: Llama, expected: dict[str, list[int]], reader: Callable[[Llama], Any]
) -> None:
    found = []
    for token in itertools.islice(start(llm, PROSE), 40):
        found.append(token)
        reader(llm)
    assert found == expected[PROSE][:40]
    check_drafts(llm)


def test_a_second_thread_that_may_not_wait_gets_an_error_and_the_first_its_tokens(
    llm: Llama, expected: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one comes exactly while the first is at work, in a hook that is called there."""
    errors: list[BaseException] = []

    def intrude() -> None:
        tokens = [5, 6]
        uses = (
            lambda: next(llm.generate(tokens)),
            lambda: llm.eval(tokens),
            lambda: llm.sample(),
            llm.reset,
            llm.save_state,
        )
        for use in uses:
            try:
                use()
            except BackendError as error:
                errors.append(error)

    def hook(*_: Any) -> bool:
        thread = threading.Thread(target=intrude)
        thread.start()
        thread.join()
        return False

    monkeypatch.setattr(llm, "turn_timeout", 0)
    found = generated(llm, PROSE, 20, stopping_criteria=StoppingCriteriaList([hook]))
    assert found == expected[PROSE][:20]
    check_drafts(llm)
    assert len(errors) == 20 * 5
    assert all("another thread" in str(error) for error in errors)
    check_agreement(llm)
    check_usable(llm, expected)


@pytest.mark.slow
def test_two_threads_take_turns_and_both_get_the_right_tokens(
    llm: Llama, expected: dict[str, list[int]]
) -> None:
    outcomes: list[bool | Exception] = []
    barrier = threading.Barrier(2)

    def work(prompt: str) -> None:
        barrier.wait()
        for _ in range(30):
            try:
                outcomes.append(generated(llm, prompt, 30) == expected[prompt][:30])
            except Exception as error:
                outcomes.append(error)

    threads = [threading.Thread(target=work, args=(prompt,)) for prompt in (PROSE, OTHER)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [True] * 60
    llm.reset()
    check_usable(llm, expected)


@pytest.mark.slow
def test_statistics_are_read_from_another_thread(
    llm: Llama, expected: dict[str, list[int]]
) -> None:
    begun, done = threading.Event(), threading.Event()

    def watch() -> None:
        while not done.is_set():
            _ = llm.stats.last.n_tokens
            begun.set()

    thread = threading.Thread(target=watch)
    thread.start()
    begun.wait()
    try:
        assert generated(llm, PROSE, 60) == expected[PROSE]
    finally:
        done.set()
        thread.join()
    check_drafts(llm)


def test_a_state_that_is_saved_meanwhile_does_not_take_the_cancel_of_an_answer(
    llm: Llama,
) -> None:
    assert llm.session is not None
    generator = start(llm, PROSE)
    next(generator)
    llm.session.cancel()  # for the answer's next step
    llm.save_state()
    with pytest.raises(Cancelled):
        list(generator)

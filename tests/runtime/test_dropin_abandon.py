"""Generators that end early, in every way they can: the model stays in agreement with itself."""

from __future__ import annotations

import gc
import itertools
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from conftest import MakeLlama, check_drafts
from llama_cpp import LogitsProcessorList, StoppingCriteriaList

from dflash_local import BackendError, Cancelled, DFlashError, Llama

PROSE = "the brown"
OTHER = "12 + 7 ="


DRAFTERS = ["dflash-b8", "dflash2-b8", "dspark-b7-anchor"]


@pytest.fixture(scope="module", params=["plain", *DRAFTERS])
def drafter(request: pytest.FixtureRequest, tiny_drafters: dict[str, Path]) -> Path | None:
    return tiny_drafters.get(request.param)


@pytest.fixture(scope="module")
def expected(make_module_llama: MakeLlama, tiny_verifier: Path) -> dict[str, list[int]]:
    """Sixty greedy tokens after each prompt, from the parent."""
    parent = make_module_llama(llama_cpp.Llama, tiny_verifier)
    out = {}
    for prompt in (PROSE, OTHER):
        parent.reset()
        out[prompt] = generated(parent, prompt, 60)
    return out


@pytest.fixture(scope="module", params=["by step", "by row"])
def shared(
    request: pytest.FixtureRequest,
    make_module_llama: MakeLlama,
    tiny_verifier: Path,
    drafter: Path | None,
) -> Llama:
    by_row = request.param == "by row"
    llm: Llama = make_module_llama(Llama, tiny_verifier, drafter=drafter, logits_all=by_row)
    return llm


@pytest.fixture
def llm(shared: Llama) -> Llama:
    shared.reset()
    return shared


def start(llm: llama_cpp.Llama, prompt: str, **options: Any) -> Any:
    return llm.generate(llm.tokenize(prompt.encode()), temp=0.0, **options)


def generated(llm: llama_cpp.Llama, prompt: str, n: int, **options: Any) -> list[int]:
    return list(itertools.islice(start(llm, prompt, **options), n))


def check_agreement(llm: Llama) -> None:
    """The parent's count, the session's and both memories say the same."""
    memory = llama_cpp.llama_get_memory(llm.ctx)
    assert llama_cpp.llama_memory_seq_pos_max(memory, 0) == llm.n_tokens - 1
    assert llm.session.n_past == llm.n_tokens
    assert llm.session.n_features == (llm.n_tokens if llm.session.drafter else 0)
    assert llm.session.tokens == llm.input_ids[: llm.n_tokens].tolist()


def check_usable(llm: Llama, expected: dict[str, list[int]]) -> None:
    for prompt, tokens in expected.items():
        assert generated(llm, prompt, 40) == tokens[:40]
        check_drafts(llm)
        check_agreement(llm)


# ---- left alone ----------------------------------------------------------------------------


@pytest.mark.parametrize("k", range(1, 13))
def test_closed_after_k_tokens(llm: Llama, expected: dict[str, list[int]], k: int) -> None:
    n_prompt = len(llm.tokenize(PROSE.encode()))
    generator = start(llm, PROSE)
    assert list(itertools.islice(generator, k)) == expected[PROSE][:k]
    generator.close()
    assert llm.n_tokens == n_prompt + k - 1
    check_agreement(llm)
    # The same prompt, one that goes on from there, and another one.
    assert generated(llm, PROSE, 40) == expected[PROSE][:40]
    tokens = llm.tokenize(PROSE.encode()) + expected[PROSE][:k]
    rest = list(itertools.islice(llm.generate(tokens, temp=0.0), 40))
    assert rest == expected[PROSE][k : k + 40]
    check_drafts(llm)
    check_usable(llm, expected)


@pytest.mark.parametrize("k", [1, 2, 3, 6, 9])
def test_forgotten_in_a_loop(llm: Llama, expected: dict[str, list[int]], k: int) -> None:
    for i, _ in enumerate(start(llm, PROSE), 1):
        if i == k:
            break
    gc.collect()
    assert llm.n_tokens == len(llm.tokenize(PROSE.encode())) + k - 1
    check_agreement(llm)
    check_usable(llm, expected)


def test_never_begun(llm: Llama, expected: dict[str, list[int]]) -> None:
    assert generated(llm, PROSE, 10) == expected[PROSE][:10]
    n_tokens = llm.n_tokens
    start(llm, OTHER).close()
    assert llm.n_tokens == n_tokens
    check_agreement(llm)
    check_usable(llm, expected)


def test_closed_twice_is_over(llm: Llama, expected: dict[str, list[int]]) -> None:
    generator = start(llm, PROSE)
    next(generator)
    generator.close()
    generator.close()
    assert list(generator) == []
    check_usable(llm, expected)


# ---- exceptions ----------------------------------------------------------------------------


class BrokenError(Exception):
    pass


def raises_at(n: int, error: type[BaseException] = BrokenError) -> Callable[..., Any]:
    """A stopping criterion or logits processor that fails at its n-th call."""
    calls = itertools.count(1)

    def hook(_: Any, scores: Any) -> Any:
        if next(calls) == n:
            raise error
        return False if hook.stops else scores  # type: ignore[attr-defined]

    hook.stops = True  # type: ignore[attr-defined]
    return hook


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13])
def test_a_stopping_criterion_that_raises(
    llm: Llama, expected: dict[str, list[int]], n: int
) -> None:
    found = []
    generator = start(llm, PROSE, stopping_criteria=StoppingCriteriaList([raises_at(n)]))
    with pytest.raises(BrokenError):
        found.extend(generator)
    assert llm.n_tokens == len(llm.tokenize(PROSE.encode())) + n - 1
    check_agreement(llm)
    check_usable(llm, expected)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13])
def test_a_logits_processor_that_raises_is_skipped_as_in_the_parent(
    llm: Llama, expected: dict[str, list[int]], n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is called through ctypes, which cannot pass an exception on: it tells the hook instead."""
    ignored: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda event: ignored.append(event.exc_type))
    hook = raises_at(n)
    hook.stops = False  # type: ignore[attr-defined]
    found = generated(llm, PROSE, 20, logits_processor=LogitsProcessorList([hook]))
    assert ignored == [BrokenError]
    assert found == expected[PROSE][:20]
    check_drafts(llm)
    check_agreement(llm)
    check_usable(llm, expected)


@pytest.mark.parametrize(
    ("error", "k"),
    [*((BrokenError, k) for k in (1, 2, 4, 7, 11)), (KeyboardInterrupt, 4), (SystemExit, 4)],
)
def test_an_exception_thrown_in(
    llm: Llama, expected: dict[str, list[int]], error: type[BaseException], k: int
) -> None:
    generator = start(llm, PROSE)
    assert list(itertools.islice(generator, k)) == expected[PROSE][:k]
    with pytest.raises(error):
        generator.throw(error())
    assert llm.n_tokens == len(llm.tokenize(PROSE.encode())) + k - 1
    check_agreement(llm)
    check_usable(llm, expected)


@pytest.mark.parametrize("k", [1, 3, 6, 10])
def test_the_next_request_is_made_while_the_exception_is_handled(
    llm: Llama, expected: dict[str, list[int]], k: int
) -> None:
    """The generator is still alive in the traceback then."""
    try:
        for i, _ in enumerate(start(llm, PROSE), 1):
            if i == k:
                raise BrokenError
    except BrokenError:
        check_usable(llm, expected)
    check_usable(llm, expected)


def test_streams_that_are_dropped(llm: Llama, expected: dict[str, list[int]]) -> None:
    for n in range(1, 10):
        stream = llm(PROSE, stream=True, max_tokens=40, temperature=0)
        for _ in range(n):
            next(stream)
        del stream
        check_agreement(llm)
    check_usable(llm, expected)


# ---- two at once ---------------------------------------------------------------------------


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


# ---- closed --------------------------------------------------------------------------------


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("name", ["plain", "dflash-b8"])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_closing_the_model_under_a_generator(
    make_llama: MakeLlama,
    tiny_verifier: Path,
    tiny_drafters: dict[str, Path],
    by_row: bool,
    name: str,
    k: int,
) -> None:
    options: dict[str, Any] = {"drafter": tiny_drafters.get(name), "logits_all": by_row}
    for ending in (next, lambda g: g.close(), lambda _: None):
        llm = make_llama(Llama, tiny_verifier, **options)
        generator = start(llm, PROSE)
        list(itertools.islice(generator, k))
        llm.close()
        llm.close()
        if ending is next:
            with pytest.raises(BackendError, match="closed"):
                list(generator)
        else:
            ending(generator)
        del generator
        gc.collect()  # an exception in there would be an error of this test


@pytest.mark.parametrize("name", ["plain", "dflash-b8"])
def test_using_a_closed_model_is_an_error(
    make_llama: MakeLlama, tiny_verifier: Path, tiny_drafters: dict[str, Path], name: str
) -> None:
    llm = make_llama(Llama, tiny_verifier, drafter=tiny_drafters.get(name))
    tokens = llm.tokenize(PROSE.encode())
    assert len(generated(llm, PROSE, 5)) == 5
    llm.close()
    for use in (
        lambda: next(llm.generate(tokens)),
        lambda: llm.eval(tokens),
        lambda: llm.session.step(),
    ):
        with pytest.raises(DFlashError, match="closed"):
            use()

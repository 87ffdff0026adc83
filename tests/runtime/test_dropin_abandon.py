"""Generators that end early, in every way they can: the model stays in agreement with itself."""

from __future__ import annotations

import gc
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import abandoned
import pytest
from abandoned import OTHER, PROSE, check_agreement, check_usable, generated, start
from conftest import MakeLlama, check_drafts
from llama_cpp import LogitsProcessorList, StoppingCriteriaList

from dflash_local import BackendError, DFlashError, Llama

# pytest finds fixtures by the names of a module.
drafter = abandoned.drafter
expected = abandoned.expected
shared = abandoned.shared
llm = abandoned.llm


# ---- left alone ----------------------------------------------------------------------------


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


# ---- closed --------------------------------------------------------------------------------


@pytest.mark.slow
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

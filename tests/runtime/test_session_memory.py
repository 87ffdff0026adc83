"""The drafter's memory: what a session knows of what others decoded."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
import sessions
from exactness import session_on
from sessions import rest_of_answer

from dflash_local import BackendError, Session

# pytest finds fixtures by the names of a module.
placement = sessions.placement
stock = sessions.stock
prompt = sessions.prompt
plain = sessions.plain
llm = sessions.llm
session = sessions.session


def test_a_new_session_drops_what_the_memory_held_before(
    stock: llama_cpp.Llama, tiny_drafters: dict[str, Path], prompt: list[int], plain: list[int]
) -> None:
    stock.reset()
    stock.eval(prompt[3:9])
    with session_on(stock, tiny_drafters["dflash-b8"]) as session:
        session.sync(prompt)
        assert rest_of_answer(session) == plain


def test_what_others_decoded_has_no_features_and_is_decoded_plainly(
    stock: llama_cpp.Llama, tiny_drafters: dict[str, Path], prompt: list[int], plain: list[int]
) -> None:
    with session_on(stock, tiny_drafters["dflash-b8"]) as session:
        session.sync(prompt[:10])
        stock.n_tokens = 10
        stock.eval(prompt[10:])  # behind the session's back
        session.align(prompt)
        assert (session.n_past, session.n_features) == (len(prompt), 10)
        assert session.features_missing
        assert rest_of_answer(session) == plain
        assert session.total_stats.n_drafted == 0
        # A prompt that shares no more than it knows makes it whole again.
        session.sync([*prompt[:9], *prompt[9:]])
        assert session.features_missing
        session.rewind(10)
        session.sync(prompt)
        assert not session.features_missing
        assert rest_of_answer(session) == plain
        assert 0 < session.total_stats.n_accepted < session.total_stats.n_drafted


def test_align_to_fewer_tokens_is_a_rewind(
    session: Session, prompt: list[int], plain: list[int]
) -> None:
    session.sync(prompt)
    rest_of_answer(session)
    session.align(prompt)
    assert (session.tokens, session.n_features) == (prompt, len(prompt))
    assert not session.features_missing
    assert rest_of_answer(session) == plain


def test_a_saved_drafter_goes_on_drafting_the_same(
    stock: llama_cpp.Llama, tiny_drafters: dict[str, Path], prompt: list[int]
) -> None:
    with session_on(stock, tiny_drafters["dflash-b8"]) as session:
        session.sync(prompt)
        for _ in range(4):
            session.step()
        session.rewind(session.n_past - 1)
        held, n_features = session.tokens, session.n_features
        drafter = session.save_drafter()
        with _saved(stock, held):
            expected = [repr(session.step()) for _ in range(6)]
            session.sync([40, 41, 42])  # another conversation
        session.align(held)
        assert session.features_missing
        session.load_drafter(drafter, n_features)
        assert not session.features_missing
        assert [repr(session.step()) for _ in range(6)] == expected


@contextlib.contextmanager
def _saved(stock: llama_cpp.Llama, held: list[int]) -> Any:
    """The verifier's memory is afterwards what it was, as its owner sees to it."""
    stock.input_ids[: len(held)] = held
    stock.n_tokens = len(held)
    state = stock.save_state()
    yield
    stock.load_state(state)


def test_a_state_that_does_not_fit_is_refused(
    session: Session, prompt: list[int], plain: list[int]
) -> None:
    session.sync(prompt)
    state = session.save_drafter()
    with pytest.raises(ValueError, match="does not fit a timeline"):
        session.load_drafter(state, len(prompt) + 1)
    for wrong in (b"", b"nonsense", state[: len(state) // 2]):
        with pytest.raises(BackendError, match="state"):
            session.load_drafter(wrong, len(prompt))
        assert session.features_missing  # plain decoding, and right
        assert rest_of_answer(session) == plain
        session.rewind(len(prompt))
    session.load_drafter(state, len(prompt))
    assert rest_of_answer(session) == plain
    assert session.last_stats.n_accepted > 0

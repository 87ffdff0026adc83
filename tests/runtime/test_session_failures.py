"""What a session refuses, what ends it, and what is still right afterwards."""

from __future__ import annotations

import ctypes
import threading
import time
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
import sessions
from conftest import MakeLlama
from exactness import ONE_THREAD, generated, tiny_prompts, tokenize
from sessions import rest_of_answer
from waiting import PATIENCE

import dflash_local
from dflash_local import BackendError, Cancelled, ContextError, DFlashError, Finish, Session, _core
from dflash_local.runtime.drafter import address

# pytest finds fixtures by the names of a module.
placement = sessions.placement
stock = sessions.stock
prompt = sessions.prompt
plain = sessions.plain
llm = sessions.llm
session = sessions.session


def test_a_prompt_beyond_the_context_is_refused_and_changes_nothing(
    session: Session, prompt: list[int], plain: list[int]
) -> None:
    session.sync(prompt)
    with pytest.raises(ContextError, match=r"no room for .* raise n_ctx"):
        session.sync(prompt + [40] * 512)
    assert (session.tokens, session.n_features) == (prompt, len(prompt))
    assert rest_of_answer(session) == plain


@pytest.mark.slow
def test_a_step_in_a_full_context_is_refused_and_a_rewind_makes_room(
    session: Session, stock: llama_cpp.Llama, prompt: list[int], plain: list[int]
) -> None:
    session.sync(tokenize(stock, "the grey cat"))
    tokens: list[int] = []
    finish = Finish.none
    while finish != Finish.context_full:  # an end does not stop it here
        step = session.step()
        tokens += step.tokens
        finish = step.finish
    assert session.n_past == 512
    before = session.tokens
    with pytest.raises(ContextError, match="full"):
        session.step()
    assert session.tokens == before
    assert session.rewind(4) == 4
    session.sync(prompt)
    assert rest_of_answer(session) == plain


@pytest.mark.parametrize("wrong", [-1, 384, 2**31 - 1])
def test_a_token_that_is_none_is_refused(wrong: int, session: Session, prompt: list[int]) -> None:
    session.sync(prompt)
    with pytest.raises(ValueError, match="vocabulary"):
        session.sync([*prompt, wrong])
    assert session.tokens == prompt
    session.step()
    with pytest.raises(ValueError, match="vocabulary"):
        session.propose([wrong])
    assert session.anchored
    with pytest.raises(ValueError, match="flat"):
        session.sync(np.zeros((2, 2), np.int32))
    with pytest.raises(TypeError, match="integers"):
        session.sync([1.5, 2.0])
    with pytest.raises(ValueError, match="32 bits"):
        session.sync([2**32 + 5])
    assert session.anchored
    with pytest.raises(ValueError, match="empty"):
        session.sync([])
    for error in (KeyboardInterrupt, SystemExit):
        with pytest.raises(error):
            session.sync(Interrupted(error))


class Interrupted:
    """Tokens that Ctrl-C comes into while they are read."""

    def __init__(self, error: type[BaseException]) -> None:
        self._error = error

    def __array__(self, *_: object, **__: object) -> Any:
        raise self._error


def test_cancel_ends_a_read_of_another_thread_and_keeps_what_was_read(
    make_llama: MakeLlama,
    tiny_verifier: Path,
    tiny_drafters: dict[str, Path],
    stock: llama_cpp.Llama,
) -> None:
    options = {**ONE_THREAD, "n_ctx": 8192, "n_batch": 16, "n_ubatch": 16}
    drafter = tiny_drafters["dflash-b8"]
    llm = make_llama(dflash_local.Llama, tiny_verifier, drafter=drafter, **options)
    text = [token for tokens in tiny_prompts(stock, 120, seed=9) for token in tokens][:7000]
    caught = None
    while caught is None:  # a read that was over before it was cancelled
        llm.reset()
        caught = _cancelled_read(llm.session, text)
    assert isinstance(caught, Cancelled)
    assert isinstance(caught, DFlashError)
    n_read = llm.session.n_past
    assert 0 < n_read < len(text)
    assert n_read % 16 == 0
    assert llm.session.tokens == text[:n_read]
    assert llm.session.n_features == n_read
    # What was read is not read again.
    before = llm.session.total_stats.n_prompt
    llm.session.sync(text[: n_read + 100])
    assert llm.session.total_stats.n_prompt == before + 100
    llm.session.step()
    assert llm.session.step().n_drafted == 7


def _cancelled_read(session: Session, tokens: list[int]) -> BaseException | None:
    """What a read in a thread ended with that was cancelled after its first chunks."""
    caught: list[BaseException] = []

    def read() -> None:
        try:
            session.sync(tokens)
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=read)
    before = session.last_stats.n_prompt
    thread.start()
    while session.last_stats.n_prompt == before and thread.is_alive():
        time.sleep(0.001)
    session.cancel()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    return caught[0] if caught else None


def test_a_cancel_that_comes_too_early_ends_nothing(
    session: Session, prompt: list[int], plain: list[int]
) -> None:
    session.cancel()
    session.sync(prompt)
    session.cancel()
    session.start_answer()
    assert rest_of_answer(session) == plain


def test_a_cancel_between_two_steps_ends_the_next_one_and_no_other(
    session: Session, prompt: list[int], plain: list[int]
) -> None:
    session.sync(prompt)
    begun = session.step().tokens + session.step().tokens
    for call in (session.step, session.propose):
        session.cancel()
        with pytest.raises(Cancelled):
            call()
    assert begun + rest_of_answer(session) == plain


def test_a_closed_session_refuses_every_call(session: Session, prompt: list[int]) -> None:
    session.sync(prompt)
    session.step()
    assert not session.closed
    session.close()
    session.close()
    assert session.closed
    for call in (
        session.step,
        session.propose,
        session.discard,
        session.save_drafter,
        lambda: session.sync(prompt),
        lambda: session.rewind(0),
        lambda: session.align([]),
        lambda: session.logits(-1),
        lambda: session.load_drafter(b"", 0),
    ):
        with pytest.raises(BackendError, match="closed"):
            call()


def test_a_models_end_closes_its_session(
    llm: dflash_local.Llama, session: Session, prompt: list[int]
) -> None:
    session.sync(prompt)
    llm.close()
    assert session.closed
    with pytest.raises(BackendError, match="closed"):
        session.step()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_rows": 0, "feature_layers": []}, "max_rows"),
        ({"max_rows": 100_000, "feature_layers": []}, "max_rows"),
        ({"max_rows": 1, "feature_layers": [99]}, "feature layer 99"),
        ({"max_rows": 1, "feature_layers": [-1]}, "feature layer -1"),
    ],
)
def test_a_verifier_that_cannot_be_is_refused(
    options: dict[str, Any], message: str, stock: llama_cpp.Llama
) -> None:
    with pytest.raises(ValueError, match=message):
        _core.Verifier(address(stock._ctx.ctx), **options)
    with pytest.raises(ValueError, match="freed"):
        _core.Verifier(0, max_rows=1, feature_layers=[])


def test_the_parent_still_works_on_a_context_that_a_session_used(
    llm: dflash_local.Llama, session: Session, prompt: list[int], plain: list[int]
) -> None:
    session.sync([40, 41, 42])
    session.step()
    assert generated(llm.generate(prompt, temp=0.0), 200) == plain
    assert ctypes.c_uint32(llama_cpp.llama_n_ctx(llm._ctx.ctx)).value == 512

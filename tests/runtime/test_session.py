"""The session, for applications that want the pieces: reading, stepping, rows, memory, errors."""

from __future__ import annotations

import contextlib
import ctypes
import re
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from exactness import (
    END,
    ONE_THREAD,
    assert_mixed,
    counts,
    generated,
    greedy,
    session_on,
    tiny_prompts,
    tokenize,
)
from llama_cpp._internals import LlamaSampler
from rpc_servers import PLACEMENTS, placed
from waiting import PATIENCE

import dflash_local
from dflash_local import (
    BackendError,
    Cancelled,
    ContextError,
    DFlashError,
    Finish,
    Session,
    StepResult,
    _core,
)
from dflash_local.runtime.drafter import address

MakeLlama = Callable[..., Any]
STORY = (
    "<|im_start|>user\nTell a story of 5 lines about the owl.<|im_end|>\n<|im_start|>assistant\n"
)


@pytest.fixture(scope="module", params=PLACEMENTS)
def placement(request: pytest.FixtureRequest) -> dict[str, Any]:
    """All of these tests run with both models at home, and with either or both on a server."""
    return placed(request, request.param)


@pytest.fixture(scope="module")
def stock(make_module_llama: MakeLlama, tiny_verifier: Path) -> llama_cpp.Llama:
    llm: llama_cpp.Llama = make_module_llama(llama_cpp.Llama, tiny_verifier, **ONE_THREAD)
    return llm


@pytest.fixture(scope="module")
def prompt(stock: llama_cpp.Llama) -> list[int]:
    return tokenize(stock, STORY)


@pytest.fixture(scope="module")
def plain(stock: llama_cpp.Llama, prompt: list[int]) -> list[int]:
    """The stock greedy answer to the prompt; it ends by itself."""
    answer = greedy(stock, prompt, 200)
    assert answer[-1] in END
    return answer


@pytest.fixture
def llm(
    make_llama: MakeLlama, tiny_verifier: Path, tiny_drafters: dict[str, Path]
) -> dflash_local.Llama:
    drafter = tiny_drafters["dflash-b8"]
    llm: dflash_local.Llama = make_llama(
        dflash_local.Llama, tiny_verifier, drafter=drafter, **ONE_THREAD
    )
    return llm


@pytest.fixture
def session(llm: dflash_local.Llama) -> Session:
    assert llm.session is not None
    return llm.session


def _finish(session: Session, sampler: Any = None) -> list[int]:
    """The rest of an answer."""
    tokens: list[int] = []
    while True:
        step = session.step(sampler)
        tokens += step.tokens
        if step.finish != Finish.none:
            return tokens


def _n_prompt(session: Session) -> int:
    return session.total_stats.n_prompt


# ---- reading -------------------------------------------------------------------------------


def test_sync_reads_only_what_is_new(session: Session, prompt: list[int]) -> None:
    session.sync(prompt[:10])
    assert (session.n_past, session.n_features, _n_prompt(session)) == (10, 10, 10)
    session.sync(np.array(prompt, np.int32))
    assert session.tokens == prompt
    assert _n_prompt(session) == len(prompt)
    other = [*prompt[:20], 40, 41]
    session.sync(other)
    assert (session.tokens, session.n_features) == (other, 22)
    assert _n_prompt(session) == len(prompt) + 2


def test_sync_to_the_same_prompt_reads_nothing_while_its_logits_are_there(
    session: Session, prompt: list[int], plain: list[int]
) -> None:
    session.sync(prompt)
    session.sync(prompt)
    assert session.logits_live
    assert _n_prompt(session) == len(prompt)
    assert _finish(session) == plain
    session.sync(prompt)
    assert _n_prompt(session) == len(prompt) + 1  # the last token again, for its logits
    assert _finish(session) == plain


def test_a_whole_answer_equals_plain_decoding_in_long_chunks_and_short(
    make_llama: MakeLlama,
    tiny_verifier: Path,
    tiny_drafters: dict[str, Path],
    prompt: list[int],
    plain: list[int],
) -> None:
    for sizes in ({"n_batch": 512}, {"n_batch": 16, "n_ubatch": 8}, {"n_batch": 3, "n_ubatch": 3}):
        drafter = tiny_drafters["dflash-b8"]
        options = {**ONE_THREAD, **sizes}
        with make_llama(dflash_local.Llama, tiny_verifier, drafter=drafter, **options) as llm:
            llm.session.sync(prompt)
            assert llm.session.n_features == len(prompt)
            assert _finish(llm.session) == plain
            assert_mixed((0, 0), counts(llm))


def test_keep_prefix_and_extend_are_the_halves_of_sync(
    session: Session, prompt: list[int], plain: list[int]
) -> None:
    session.sync(prompt)
    assert session.keep_prefix([*prompt[:15], 40]) == 15
    assert session.keep_prefix(prompt[:15]) == 14  # its logits are gone: one is read again
    session.extend(prompt[14:-4])
    session.extend(prompt[-4:], all_rows=True)
    assert session.logits(3).argmax() == session.logits(-1).argmax() == plain[0]
    assert _finish(session) == plain


def test_rewind_goes_back_and_the_answer_goes_on_the_same(
    session: Session, prompt: list[int], plain: list[int]
) -> None:
    session.sync(prompt)
    assert _finish(session) == plain
    keep = len(prompt) + 10
    assert session.rewind(keep) == keep
    assert session.tokens == [*prompt, *plain[:10]]
    assert (session.n_past, session.n_features) == (keep, keep)
    assert not session.logits_live
    assert _finish(session) == plain[10:]
    with pytest.raises(ValueError, match="holds"):
        session.rewind(session.n_past + 1)


def test_start_answer_resets_the_last_statistics_alone(session: Session, prompt: list[int]) -> None:
    session.sync(prompt)
    session.start_answer()
    session.sync([*prompt, 40, 41, 42])
    assert session.last_stats.n_prompt == 3
    assert session.total_stats.n_prompt == len(prompt) + 3


# ---- stepping ------------------------------------------------------------------------------


def test_steps_give_what_their_results_say(
    session: Session, prompt: list[int], plain: list[int]
) -> None:
    session.sync(prompt)
    first = session.step()
    assert (first.tokens, first.n_drafted, first.n_accepted) == (plain[:1], 0, 0)
    steps = [first]
    while steps[-1].finish == Finish.none:
        assert session.anchored
        assert session.n_past == session.n_features == len(session.tokens) - 1
        steps.append(session.step())
        step = steps[-1]
        assert step.n_drafted == 7 == len(session.draft.tokens)
        assert step.tokens[: step.n_accepted] == session.draft.tokens[: step.n_accepted]
        assert len(step.tokens) - step.n_accepted in (0, 1)
    assert steps[-1].finish == Finish.end_of_generation
    assert [token for step in steps for token in step.tokens] == plain
    _check_statistics(session, steps)


def _check_statistics(session: Session, steps: list[StepResult]) -> None:
    stats = session.last_stats
    assert stats.n_tokens == sum(len(step.tokens) for step in steps)
    assert stats.n_steps == stats.n_blocks == len(steps) - 1
    assert stats.n_drafted == sum(step.n_drafted for step in steps)
    assert stats.n_accepted == sum(step.n_accepted for step in steps)
    assert 0 < stats.n_accepted < stats.n_drafted
    assert sum(stats.accepted_per_position) == stats.n_accepted
    assert stats.acceptance_rate == pytest.approx(stats.n_accepted / stats.n_drafted)
    assert stats.acceptance_length == pytest.approx((stats.n_tokens - 1) / stats.n_steps)
    assert stats.seconds_draft > 0
    assert stats.seconds_verify > 0


def test_results_show_their_fields(session: Session, prompt: list[int]) -> None:
    session.sync(prompt)
    session.step()
    step = session.step()
    assert repr(step) == (
        f"StepResult(tokens={step.tokens}, n_drafted=7, n_accepted={step.n_accepted}, "
        "finish=Finish.none)"
    )
    assert repr(session.draft).startswith(f"Draft(tokens={session.draft.tokens}, confidence=[")
    assert repr(session) == (
        f"Session(n_past={session.n_past}, n_features={session.n_features}, width=7)"
    )
    assert re.fullmatch(
        r"Stats\(n_tokens=\d+, n_steps=1, n_drafted=7, .*\)", repr(session.last_stats)
    )
    assert [finish.name for finish in Finish] == ["none", "end_of_generation", "context_full"]


@pytest.mark.parametrize("as_address", [False, True])
def test_a_step_without_a_sampler_equals_a_step_with_a_greedy_one(
    as_address: bool, session: Session, prompt: list[int], plain: list[int]
) -> None:
    with closing(LlamaSampler()) as greedy_sampler:
        greedy_sampler.add_greedy()
        sampler = address(greedy_sampler.sampler) if as_address else greedy_sampler
        steps: list[list[list[int]]] = []
        for choice in (None, sampler):
            session.sync(prompt)
            steps.append([session.step(choice).tokens for _ in range(8)])
        assert steps[0] == steps[1]
        session.sync(prompt)
        assert _finish(session, sampler) == plain
    with pytest.raises(ValueError, match="closed"):
        session.step(greedy_sampler)


def test_max_tokens_and_width_limit_a_step(
    session: Session, prompt: list[int], plain: list[int]
) -> None:
    for width, limit in ((7, 1), (7, 3), (2, None), (0, None), (5, 4)):
        session.width = width
        session.sync(prompt)
        tokens = session.step().tokens
        most = min(limit or 8, width + 1)
        while len(tokens) < 20:
            step = session.step(max_tokens=limit)
            assert 1 <= len(step.tokens) <= most
            assert step.n_drafted == most - 1
            tokens += step.tokens
        assert tokens == plain[: len(tokens)]
    with pytest.raises(ValueError, match="max_tokens"):
        session.step(max_tokens=0)


def test_a_limit_cuts_the_draft_and_does_not_change_it(session: Session, prompt: list[int]) -> None:
    session.sync(prompt)
    session.step()
    for _ in range(8):
        whole = session.propose().tokens
        for limit in range(1, 8):
            assert session.propose(max_tokens=limit).tokens == whole[: limit - 1]
        session.discard()
        session.step()


@pytest.mark.parametrize("name", ["dflash-b8", "dflash2-b8", "dspark-b8", "dspark-b7-anchor"])
def test_drafts_come_with_the_confidence_of_their_drafter(
    name: str, stock: llama_cpp.Llama, tiny_drafters: dict[str, Path]
) -> None:
    accepted, rejected = [], []
    with session_on(stock, tiny_drafters[name]) as session:
        for tokens in tiny_prompts(stock, 12, seed=8):
            session.sync(tokens)
            session.step()
            for _ in range(6):
                step, draft = session.step(), session.draft
                assert len(draft.confidence) == len(draft.tokens)
                accepted += draft.confidence[: step.n_accepted]
                rejected += draft.confidence[step.n_accepted : step.n_accepted + 1]
    assert all(0.0 <= sure <= 1.0 for sure in accepted + rejected)
    assert np.mean(accepted) > np.mean(rejected) + 0.05


def test_without_a_drafter_the_same_loop_decodes_plainly(
    stock: llama_cpp.Llama, prompt: list[int], plain: list[int]
) -> None:
    stock._ctx.kv_cache_clear()
    verifier = _core.Verifier(address(stock._ctx.ctx), max_rows=512, feature_layers=[])
    session = Session(verifier)
    session.sync(prompt)
    assert _finish(session) == plain
    assert session.total_stats.n_drafted == 0
    assert session.n_features == 0
    assert not session.features_missing
    session.close()


# ---- row by row ----------------------------------------------------------------------------


def _emit(session: Session, drafts: list[int]) -> list[int]:
    """Greedy choices, row by row, of the draft that was proposed."""
    emitted: list[int] = []
    for row, draft in enumerate([*drafts, None]):
        emitted.append(int(session.logits(row).argmax()))
        if emitted[-1] != draft or draft in END:
            break
    return emitted


def test_steps_taken_row_by_row_equal_whole_ones(
    session: Session, prompt: list[int], plain: list[int]
) -> None:
    session.sync(prompt)
    answer = [int(session.logits(-1).argmax())]
    session.anchor(answer[0])
    while answer[-1] not in END:
        drafts = session.propose().tokens
        emitted = _emit(session, drafts)
        step = session.commit(emitted)
        assert step.tokens == emitted
        assert step.n_drafted == len(drafts) == 7
        answer += emitted
    assert answer == plain
    assert 0 < session.last_stats.n_accepted < session.last_stats.n_drafted


def test_the_callers_own_draft_is_verified(
    session: Session, prompt: list[int], plain: list[int]
) -> None:
    session.sync(prompt)
    session.step()
    step = session.step(draft=plain[1:6])
    assert (step.tokens, step.n_drafted, step.n_accepted) == (plain[1:7], 5, 5)
    wrong = [*plain[7:9], 40, *plain[10:12]]
    step = session.step(draft=wrong)
    assert (step.tokens, step.n_drafted, step.n_accepted) == (plain[7:10], 5, 2)
    assert session.propose(plain[10:13]).tokens == plain[10:13]
    assert session.commit(_emit(session, plain[10:13])).n_accepted == 3
    assert session.step(draft=[]).tokens == plain[14:15]
    assert _finish(session) == plain[15:]


def test_a_discarded_step_has_not_happened(
    session: Session, prompt: list[int], plain: list[int]
) -> None:
    session.sync(prompt)
    session.step()
    before = (session.tokens, session.n_past, session.n_features, session.total_stats.n_steps)
    for discard in (session.discard, lambda: session.rewind(session.n_past)):
        session.propose()
        discard()
        if discard == session.discard:
            now = (session.tokens, session.n_past, session.n_features, session.total_stats.n_steps)
            assert now == before
    assert _finish(session) == plain  # rewind dropped the anchor: it is sampled again


def test_rows_out_of_turn_are_refused(session: Session, prompt: list[int]) -> None:
    with pytest.raises(ValueError, match="prompt"):
        session.step()
    session.sync(prompt)
    with pytest.raises(ValueError, match="anchor"):
        session.propose()
    with pytest.raises(ValueError, match="propose"):
        session.commit([5])
    session.step()
    with pytest.raises(ValueError, match="read"):
        session.anchor(5)
    drafts = session.propose().tokens
    for wrong in ([], [drafts[0] + 1, drafts[1]], [*drafts, 5, 5], [drafts[1] + 1, 5]):
        with pytest.raises(ValueError, match="prefix"):
            session.commit(wrong)
    assert session.commit([drafts[0] + 1]).n_accepted == 0


def test_logits_of_a_draft_are_there_until_the_next_one(
    session: Session, prompt: list[int]
) -> None:
    session.sync(prompt)
    session.step()
    drafts = session.propose().tokens
    assert [int(session.draft_logits(row).argmax()) for row in range(len(drafts))] == drafts
    for row in (-9, len(drafts), 1000):
        with pytest.raises(ValueError, match="row"):
            session.draft_logits(row)
    session.commit(_emit(session, drafts))
    assert int(session.draft_logits(0).argmax()) == drafts[0]
    following = session.propose().tokens
    assert int(session.draft_logits(0).argmax()) == following[0]


# ---- the drafter's memory ------------------------------------------------------------------


def test_a_new_session_drops_what_the_memory_held_before(
    stock: llama_cpp.Llama, tiny_drafters: dict[str, Path], prompt: list[int], plain: list[int]
) -> None:
    stock.reset()
    stock.eval(prompt[3:9])
    with session_on(stock, tiny_drafters["dflash-b8"]) as session:
        session.sync(prompt)
        assert _finish(session) == plain


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
        assert _finish(session) == plain
        assert session.total_stats.n_drafted == 0
        # A prompt that shares no more than it knows makes it whole again.
        session.sync([*prompt[:9], *prompt[9:]])
        assert session.features_missing
        session.rewind(10)
        session.sync(prompt)
        assert not session.features_missing
        assert _finish(session) == plain
        assert 0 < session.total_stats.n_accepted < session.total_stats.n_drafted


def test_align_to_fewer_tokens_is_a_rewind(
    session: Session, prompt: list[int], plain: list[int]
) -> None:
    session.sync(prompt)
    _finish(session)
    session.align(prompt)
    assert (session.tokens, session.n_features) == (prompt, len(prompt))
    assert not session.features_missing
    assert _finish(session) == plain


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
        assert _finish(session) == plain
        session.rewind(len(prompt))
    session.load_drafter(state, len(prompt))
    assert _finish(session) == plain
    assert session.last_stats.n_accepted > 0


# ---- errors --------------------------------------------------------------------------------


def test_a_prompt_beyond_the_context_is_refused_and_changes_nothing(
    session: Session, prompt: list[int], plain: list[int]
) -> None:
    session.sync(prompt)
    with pytest.raises(ContextError, match=r"no room for .* raise n_ctx"):
        session.sync(prompt + [40] * 512)
    assert (session.tokens, session.n_features) == (prompt, len(prompt))
    assert _finish(session) == plain


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
    assert _finish(session) == plain


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
    assert _finish(session) == plain


def test_a_cancel_between_two_steps_ends_the_next_one_and_no_other(
    session: Session, prompt: list[int], plain: list[int]
) -> None:
    session.sync(prompt)
    begun = session.step().tokens + session.step().tokens
    for call in (session.step, session.propose):
        session.cancel()
        with pytest.raises(Cancelled):
            call()
    assert begun + _finish(session) == plain


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

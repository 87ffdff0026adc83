"""The session, for applications that want the pieces: reading and stepping."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
import sessions
from conftest import MakeLlama
from exactness import ONE_THREAD, assert_mixed, counts, session_on, tiny_prompts
from llama_cpp._internals import LlamaSampler
from sessions import rest_of_answer

import dflash_local
from dflash_local import Finish, Session, StepResult, _core
from dflash_local.runtime.drafter import address

# pytest finds fixtures by the names of a module.
placement = sessions.placement
stock = sessions.stock
prompt = sessions.prompt
plain = sessions.plain
llm = sessions.llm
session = sessions.session


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
    assert rest_of_answer(session) == plain
    session.sync(prompt)
    assert _n_prompt(session) == len(prompt) + 1  # the last token again, for its logits
    assert rest_of_answer(session) == plain


@pytest.mark.slow
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
            assert rest_of_answer(llm.session) == plain
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
    assert rest_of_answer(session) == plain


def test_rewind_goes_back_and_the_answer_goes_on_the_same(
    session: Session, prompt: list[int], plain: list[int]
) -> None:
    session.sync(prompt)
    assert rest_of_answer(session) == plain
    keep = len(prompt) + 10
    assert session.rewind(keep) == keep
    assert session.tokens == [*prompt, *plain[:10]]
    assert (session.n_past, session.n_features) == (keep, keep)
    assert not session.logits_live
    assert rest_of_answer(session) == plain[10:]
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


@pytest.mark.slow
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
        assert rest_of_answer(session, sampler) == plain
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


@pytest.mark.slow
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
    assert rest_of_answer(session) == plain
    assert session.total_stats.n_drafted == 0
    assert session.n_features == 0
    assert not session.features_missing
    session.close()

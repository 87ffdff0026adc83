"""The session row by row: drafts, their logits, and what is done with them."""

from __future__ import annotations

import pytest
import sessions
from exactness import END
from sessions import rest_of_answer

from dflash_local import Session

# pytest finds fixtures by the names of a module.
placement = sessions.placement
stock = sessions.stock
prompt = sessions.prompt
plain = sessions.plain
llm = sessions.llm
session = sessions.session


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
    assert rest_of_answer(session) == plain[15:]


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
    assert rest_of_answer(session) == plain  # rewind dropped the anchor: it is sampled again


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

"""The two ways a ``Llama`` drives its session while it yields tokens one by one.

Both keep the parent's invariant: while a token is out, ``n_tokens`` counts the prompt and the
tokens yielded before it, and an abandoned generator leaves it there.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from .errors import BackendError

if TYPE_CHECKING:
    from ._core import Session
    from .llama import Llama

TokenGenerator = Generator[int, "Sequence[int] | None", None]
StoppingCriteria = Callable[..., bool]


def without_proposals(tokens: TokenGenerator) -> TokenGenerator:
    """The same tokens; what is sent is dropped.

    The parent needs logits of all rows to verify what it is sent, and ends the process without.
    """
    with closing(tokens):
        for token in tokens:
            _sent = yield token


def by_step(
    llm: Llama, session: Session, sampler: Any, stopping_criteria: StoppingCriteria | None
) -> TokenGenerator:
    """Whole steps in C++; the tokens of a step are handed out afterwards.

    Stopping criteria do not need the row form: they have no say in what is sampled, and the rows
    of a step stay at hand until the next one.
    """
    turn = llm._turn
    sent: Sequence[int] | None = None
    try:
        before: int | None = None
        while True:
            for row, token in enumerate(session.step(sampler, draft=sent).tokens):
                if before is not None:
                    llm._append(before)
                index = row if before is not None else -1
                if stopping_criteria is not None and stopping_criteria(
                    llm._input_ids, session.logits(index)
                ):
                    return
                sent = yield token
                _check_turn(llm, turn)
                before = token
    finally:
        if llm._turn is turn:
            llm._settle()


def by_row(
    llm: Llama,
    session: Session,
    sampler: Any,
    stopping_criteria: StoppingCriteria | None,
) -> TokenGenerator:
    """The same steps row by row, for callers with a say in each token.

    Logits processors read ``input_ids`` while a row is sampled, ``logprobs`` read ``scores``: each
    row finds them as in the parent.
    """
    turn = llm._turn
    sent: Sequence[int] | None = None
    emitted: list[int] = []
    try:
        while True:
            # The first token comes from the logits that the prompt left behind, without a block.
            block = [emitted[-1], *session.propose(sent).tokens] if emitted else []
            emitted = []
            try:
                for row, token_in in enumerate(block or [None]):
                    if token_in is not None:
                        llm._append(token_in)
                        llm._keep_scores(row)
                    index = row if block else -1
                    token = sampler.sample(llm._ctx, index)
                    emitted.append(token)
                    if stopping_criteria is not None and stopping_criteria(
                        llm._input_ids, session.logits(index)
                    ):
                        return
                    sent = yield token
                    _check_turn(llm, turn)
                    if row + 1 >= len(block) or token != block[row + 1]:
                        break
            finally:
                if llm._turn is turn:
                    _close_step(llm, session, emitted, proposed=bool(block))
    finally:
        if llm._turn is turn:
            llm._settle()


def _close_step(llm: Llama, session: Session, emitted: list[int], *, proposed: bool) -> None:
    if not emitted:
        session.discard()
    elif proposed:
        session.commit(emitted)
    else:
        session.anchor(emitted[0])
    llm.n_tokens = session.n_past


def _check_turn(llm: Llama, turn: object) -> None:
    if llm._turn is not turn:
        raise BackendError(
            "the model was used for something else while this generator was running: finish or "
            "close a generator before the next call"
        )

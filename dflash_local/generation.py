"""The two ways a ``Llama`` drives its session while it yields tokens one by one.

Both keep the parent's invariant: while a token is out, ``n_tokens`` counts the prompt and the
tokens yielded before it, and an abandoned generator leaves it there.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from ._api import _core

if TYPE_CHECKING:
    from ._core import Session, Turn
    from .llama import Llama

TokenGenerator = Generator[int, "Sequence[int] | None", None]
StoppingCriteria = Callable[..., bool]


class Room:
    """How many tokens of an answer are wanted still: no step drafts or verifies more.

    Args:
        max_tokens: of the whole answer; None, 0 or less: as many as the context holds.
    """

    def __init__(self, max_tokens: int | None) -> None:
        self._left = max_tokens if max_tokens is not None and max_tokens > 0 else None

    @property
    def left(self) -> int | None:
        """At least 1: whoever asks for more than was wanted gets it token by token."""
        return None if self._left is None else max(1, self._left)

    def take(self, n_tokens: int) -> None:
        if self._left is not None:
            self._left -= n_tokens


def plainly(llm: Llama, parents: TokenGenerator, turn: Turn) -> TokenGenerator:
    """The parent's own tokens, without a drafter.

    What is sent is dropped unless the logits of all rows are kept: the parent needs them to verify
    it, and ends the process without.
    """
    sent: Sequence[int] | None = None
    with closing(parents):
        while True:
            with llm._alone(turn), _core.InLibrary():
                try:
                    token = next(parents) if sent is None else parents.send(sent)
                except StopIteration:
                    return
            sent = yield token
            if not llm._logits_all:
                sent = None


def by_step(
    llm: Llama,
    session: Session,
    sampler: Any,
    stopping_criteria: StoppingCriteria | None,
    turn: Turn,
    room: Room,
) -> TokenGenerator:
    """Whole steps in C++; the tokens of a step are handed out afterwards.

    Stopping criteria do not need the row form: they have no say in what is sampled, and the rows
    of a step stay at hand until the next one.
    """
    sent: Sequence[int] | None = None
    before: int | None = None
    n_left = 0  # of the step's tokens, those that are not handed out
    try:
        while True:
            with llm._alone(turn):
                rejection = llm.sampling == "rejection"
                tokens = session.step(
                    sampler, max_tokens=room.left, draft=sent, rejection=rejection
                ).tokens
                n_left = len(tokens)
                room.take(n_left)
            for row, token in enumerate(tokens):
                with llm._alone(turn):
                    if before is not None:
                        llm._append(before)
                    index = row if before is not None else -1
                    if stopping_criteria is not None and stopping_criteria(
                        llm._input_ids, session.logits(index)
                    ):
                        return
                    n_left -= 1
                    if len(tokens) > 1:
                        session.withhold(n_left)
                sent = yield token
                before = token
    finally:
        with llm._if_still(turn) as mine:
            if mine:
                session.withhold(n_left)
                llm._settle()


def by_row(
    llm: Llama,
    session: Session,
    sampler: Any,
    stopping_criteria: StoppingCriteria | None,
    turn: Turn,
    room: Room,
) -> TokenGenerator:
    """The same steps row by row, for callers with a say in each token.

    Logits processors read ``input_ids`` while a row is sampled, ``logprobs`` read ``scores``: each
    row finds them as in the parent.
    """
    sent: Sequence[int] | None = None
    step = _RowStep(llm, session)
    try:
        while True:
            with llm._alone(turn):
                step.begin(sent, sampler, room.left)
            for row in range(step.n_rows):
                with llm._alone(turn):
                    token = step.sample(row, sampler)
                    room.take(1)
                    if stopping_criteria is not None and stopping_criteria(
                        llm._input_ids, session.logits(step.index(row))
                    ):
                        return
                    step.n_out += 1
                sent = yield token
                if not step.goes_on_after(row, token):
                    break
            with llm._alone(turn):
                step.end()
    finally:
        with llm._if_still(turn) as mine:
            if mine:
                step.end()
                llm._settle()


class _RowStep:
    """A step that is taken row by row: the anchor and the drafts go in, one token a row comes out.

    The first step of an answer has no anchor: its one row is what the prompt left behind.

    Attributes:
        n_out: tokens of it that are handed out.
    """

    def __init__(self, llm: Llama, session: Session) -> None:
        self._llm = llm
        self._session = session
        self._open = False
        self._block: list[int] = []
        self._emitted: list[int] = []
        self.n_out = 0

    @property
    def n_rows(self) -> int:
        return max(1, len(self._block))

    def index(self, row: int) -> int:
        """The row as libllama counts it."""
        return row if self._block else -1

    def begin(self, sent: Sequence[int] | None, sampler: Any, room: int | None) -> None:
        if self._emitted:
            draft = self._session.propose(sent, max_tokens=room, sampler=sampler)
            self._block = [self._emitted[-1], *draft.tokens]
        self._emitted = []
        self.n_out = 0
        self._open = True

    def sample(self, row: int, sampler: Any) -> int:
        if self._block:
            self._llm._append(self._block[row])
            self._llm._keep_scores(row)
        token = self._session.sample(self.index(row), sampler)
        self._emitted.append(token)
        return token

    def goes_on_after(self, row: int, token: int) -> bool:
        return row + 1 < len(self._block) and token == self._block[row + 1]

    def end(self) -> None:
        """Commits what was emitted. A second time it does nothing."""
        if not self._open:
            return
        self._open = False
        if self._emitted:
            self._commit()
        else:
            self._session.discard()
        self._llm.n_tokens = self._session.n_past

    def _commit(self) -> None:
        if self._block:
            self._session.commit(self._emitted)
        else:
            self._session.anchor(self._emitted[0])
        self._session.withhold(len(self._emitted) - self.n_out)

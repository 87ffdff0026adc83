"""How a ``Llama`` drives its session while it yields tokens one by one.

Steps keep the parent's invariant: while a token is out, ``n_tokens`` counts the prompt and the
tokens yielded before it, and an abandoned generator leaves it there.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from dflash_local._core import Turn

    from .timeline import Timeline

TokenGenerator = Generator[int, "Sequence[int] | None", None]
StoppingCriteria = Callable[..., bool]
DraftModel = Callable[["npt.NDArray[np.intc]"], "npt.NDArray[np.intc]"]


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


class Steps(Protocol):
    """Steps whose tokens are handed out one by one.

    Attributes:
        index: the row that the last token came from, as libllama counts it.
    """

    index: int

    def next_token(self, sent: Sequence[int] | None) -> int:
        """The next token of the step, or of the next one, which verifies what was sent."""

    def hand_out(self) -> None:
        """That token counts."""

    def end(self) -> None:
        """No token is to come: what is open of a step is closed."""


def tokens_of(
    timeline: Timeline,
    steps: Steps,
    stopping_criteria: StoppingCriteria | None,
    turn: Turn,
) -> TokenGenerator:
    """The tokens of an answer whose prompt has been read."""
    session, turns = timeline.session, timeline.turns
    sent: Sequence[int] | None = None
    try:
        while True:
            with turns.alone(turn):  # once a token: it costs as much as all else here
                token = steps.next_token(sent)
                # They have no say in what is sampled; a step's rows stay until the next one.
                if stopping_criteria is not None and stopping_criteria(
                    timeline.tokens, session.logits(steps.index)
                ):
                    return
                steps.hand_out()
            sent = yield token
    finally:
        with turns.if_still(turn) as mine:
            if mine:  # else who took the turn brings all in line
                steps.end()
                timeline.settle()


class WholeSteps:
    """Each step is one call of C++.

    Args:
        chain: address of the llama_sampler chain, which the caller keeps alive.
        rejection: drafts are kept by rejection sampling.
    """

    def __init__(self, timeline: Timeline, chain: int, room: Room, *, rejection: bool) -> None:
        self._timeline = timeline
        self._session = timeline.session
        self._chain = chain
        self._room = room
        self._rejection = rejection
        self._tokens: list[int] = []
        self._n_out = 0  # of them are handed out
        self._before: int | None = None
        self.index = -1

    def next_token(self, sent: Sequence[int] | None) -> int:
        if self._n_out == len(self._tokens):
            self._tokens = self._session.step(
                self._chain, max_tokens=self._room.left, draft=sent, rejection=self._rejection
            ).tokens
            self._room.take(len(self._tokens))
            self._n_out = 0
        if self._before is not None:
            self._timeline.append(self._before)
            self.index = self._n_out
        self._before = self._tokens[self._n_out]
        return self._before

    def hand_out(self) -> None:
        self._n_out += 1
        if len(self._tokens) > 1:  # else the session has counted it
            self._withhold()

    def end(self) -> None:
        self._withhold()

    def _withhold(self) -> None:
        self._session.withhold(len(self._tokens) - self._n_out)


class RowSteps:
    """Each step is taken row by row, for callers with a say in each token.

    Logits processors read ``input_ids`` while a row is sampled, ``logprobs`` read ``scores``: each
    row finds them as in the parent. Anchor and drafts go in, one token a row comes out. The first
    step of an answer has no anchor: its one row is what the prompt left behind.
    """

    def __init__(
        self, timeline: Timeline, chain: int, room: Room, draft_model: DraftModel | None
    ) -> None:
        self._timeline = timeline
        self._session = timeline.session
        self._draft_model = draft_model
        self._chain = chain
        self._room = room
        self._open = False
        self._block: list[int] = []
        self._emitted: list[int] = []
        self._n_out = 0  # of them are handed out
        self.index = -1

    def next_token(self, sent: Sequence[int] | None) -> int:
        if self._open and not self._goes_on():
            self.end()
        if not self._open:
            self._begin(sent)
        if self._block:
            self.index = len(self._emitted)
            self._timeline.append(self._block[self.index])
            self._timeline.keep_scores(self.index)
        self._emitted.append(self._session.sample(self.index, self._chain))
        self._room.take(1)
        return self._emitted[-1]

    def _begin(self, sent: Sequence[int] | None) -> None:
        if self._emitted:
            proposed = self._proposed(self._emitted[-1], sent)
            draft = self._session.propose(proposed, max_tokens=self._room.left, sampler=self._chain)
            self._block = [self._emitted[-1], *draft.tokens]
        self._emitted = []
        self._n_out = 0
        self._open = True

    def _proposed(self, anchor: int, sent: Sequence[int] | None) -> Sequence[int] | None:
        """What was sent to the generator, and what the parent's own draft model adds to it."""
        if self._draft_model is None:
            return sent
        said = np.array([anchor, *(sent or ())], dtype=np.intc)
        drafts = self._draft_model(np.concatenate((self._timeline.tokens, said)))
        return [*said[1:].tolist(), *drafts.tolist()]

    def hand_out(self) -> None:
        self._n_out += 1

    def _goes_on(self) -> bool:
        n = len(self._emitted)
        return n < len(self._block) and self._emitted[-1] == self._block[n]

    def end(self) -> None:
        """Commits what was emitted. A second time it does nothing."""
        if not self._open:
            return
        self._open = False
        if self._emitted:
            self._commit()
        else:
            self._session.discard()
        self._timeline.n_tokens = self._session.n_past

    def _commit(self) -> None:
        if self._block:
            self._session.commit(self._emitted)
        else:
            self._session.anchor(self._emitted[0])
        self._session.withhold(len(self._emitted) - self._n_out)

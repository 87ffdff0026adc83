"""The text of a ``Llama``: the parent's fields and the session, brought in line here only.

``llama_cpp.Llama`` keeps its text in ``input_ids``, ``n_tokens`` and ``scores``: chat handlers
write them, logits processors and the parent's own methods read them. The session keeps the same
text, and is the truth of what the models' memories hold. Whoever calls a method here has the model
for itself (``Turns.alone``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dflash_local._api import _core
from dflash_local.errors import ModelError


class Timeline:
    """One text over a verifier.

    Args:
        model: what the verifier is called in errors.

    Attributes:
        turns: who may work on it.
        input_ids: [n_ctx] tokens; those from ``n_tokens`` on mean nothing.
        scores: [n_ctx, n_vocab] logits after each token with ``logits_all``; else of no use.
        n_tokens: tokens of the text that were handed out or read.
    """

    def __init__(self, turns: _core.Turns, model: str) -> None:
        self.turns = turns
        self.input_ids: npt.NDArray[np.intc] = np.empty(0, np.intc)
        self.scores: npt.NDArray[np.single] = np.empty((0, 0), np.single)
        self.n_tokens = 0
        self._session: _core.Session | None = None
        self._model = model
        self._n_ctx = 0
        self._n_at_once = 0
        self._keeps_scores = False

    def open(self, session: _core.Session, *, n_ctx: int, n_batch: int, logits_all: bool) -> None:
        """Joins the parent's arrays and a session.

        Args:
            n_ctx: positions that the session's context holds.
            n_batch: tokens that are read at once.
            logits_all: the scores of all tokens are kept.
        """
        self._session = session
        self._n_ctx = n_ctx
        self._keeps_scores = logits_all
        self._n_at_once = min(n_batch, session.verifier.max_rows) if logits_all else n_batch
        self.make_room()

    def make_room(self) -> None:
        """For the whole context: libllama rounds n_ctx up, the parent counts what was asked."""
        missing = self._n_ctx - len(self.input_ids)
        if missing > 0:
            self.input_ids = np.pad(self.input_ids, (0, missing))
            if self._keeps_scores:
                self.scores = np.pad(self.scores, ((0, missing), (0, 0)))

    @property
    def session_or_none(self) -> _core.Session | None:
        """None where the model has no memory, and so no text."""
        return self._session

    @property
    def session(self) -> _core.Session:
        """Raises ModelError where the model has no memory."""
        if self._session is None:
            raise ModelError(
                f"{self._model} cannot generate: it has no memory of a text (it is an encoder, or "
                "was loaded with vocab_only)"
            )
        return self._session

    @property
    def tokens(self) -> npt.NDArray[np.intc]:
        """The text, [n_tokens]."""
        return self.input_ids[: self.n_tokens]

    # ---- in line -----------------------------------------------------------------------------

    def align(self) -> None:
        """Tells the session what the parent's fields say: chat handlers write them directly."""
        self.session.align(self.tokens)
        self.n_tokens = self.session.n_past

    def forget(self) -> None:
        """Ends the text."""
        self.n_tokens = 0
        if self._session is not None:
            self._session.align([])

    def settle(self) -> None:
        """After an answer: both memories end where the tokens that were handed out end."""
        self.n_tokens = self.session.rewind(min(self.n_tokens, self.session.n_past))

    def n_agreed(self) -> int:
        """Tokens at the beginning that the parent's fields and the session both hold."""
        held = np.asarray(self.session.tokens[: self.n_tokens], dtype=np.intc)
        different = np.flatnonzero(held != self.input_ids[: len(held)])
        return int(different[0]) if len(different) else len(held)

    # ---- reading -----------------------------------------------------------------------------

    def begin(self, tokens: list[int], *, reset: bool) -> None:
        """Reads what an answer follows on.

        Args:
            reset: ``tokens`` are the whole text, of which what is held already is kept; else they
                go on with it.
        """
        session = self.session
        self.align()
        session.start_answer()
        if reset:
            self.n_tokens = session.keep_prefix(tokens)
            tokens = tokens[self.n_tokens :]
        self.read(tokens)
        self.align()
        self.refresh_logits()  # of a prompt that goes on where an abandoned answer ended

    def read(self, tokens: Sequence[int]) -> None:
        """Reads tokens after the text. What was read stays, where the rest was stopped."""
        try:
            for start in range(0, len(tokens), self._n_at_once):
                self.turns.check_cancelled()
                self._read_chunk(list(tokens[start : start + self._n_at_once]))
        except BaseException:
            # A memory that cannot drop a part of a sequence may have lost all of it.
            self.n_tokens = min(self.n_tokens, self.session.n_past)
            raise

    def _read_chunk(self, chunk: list[int]) -> None:
        self.session.extend(chunk, all_rows=self._keeps_scores)
        end = self.n_tokens + len(chunk)
        self.input_ids[self.n_tokens : end] = chunk
        if self._keeps_scores:
            for row in range(len(chunk)):
                self.scores[self.n_tokens + row] = self.session.logits(row)
        self.n_tokens = end

    def read_again(self, *, at_most: int, one_by_one: bool) -> None:
        """Reads again the few tokens of a state that the drafter lacks: a block in flight.

        Only of a state: what a chat handler decoded may be an image, whose positions are no tokens.

        Args:
            at_most: tokens; more are not read again.
            one_by_one: as plain decoding decoded an answer's tokens.
        """
        session = self.session
        if not 0 < session.n_past - session.n_features <= at_most:
            return
        tokens = session.tokens[: session.n_past]
        self.n_tokens = session.rewind(session.n_features)
        at_once = 1 if one_by_one else len(tokens)
        for start in range(self.n_tokens, len(tokens), at_once):
            self.read(tokens[start : start + at_once])

    def refresh_logits(self) -> None:
        """After a block the last logits may be a rejected draft's: reads the last token again."""
        if self.n_tokens > 0 and not self.session.logits_live:
            tokens = self.tokens.tolist()
            self.n_tokens = self.session.keep_prefix(tokens)
            self.read(tokens[self.n_tokens :])

    # ---- an answer's tokens --------------------------------------------------------------------

    def append(self, token: int) -> None:
        """The token was handed out, and is decoded."""
        self.input_ids[self.n_tokens] = token
        self.n_tokens += 1

    def keep_scores(self, row: int) -> None:
        """With ``logits_all``: those of a row of the last decode are the last token's."""
        if self._keeps_scores:
            self.scores[self.n_tokens - 1] = self.session.logits(row)

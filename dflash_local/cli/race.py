"""The race of ``dflash-local demo``: two models answer one prompt, each on its own clock."""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dflash_local import Finish, Llama, StepResult
from dflash_local.errors import BackendError
from dflash_local.runtime.rendering import render_chat


@dataclass
class Tally:
    """What was timed, of an answer or of several.

    Attributes:
        n_tokens: emitted by steps. The first token of an answer is of none: it comes from the
            prompt's logits, and is not timed.
        n_steps: verify steps.
        seconds: inside those steps.
    """

    n_tokens: int = 0
    n_steps: int = 0
    seconds: float = 0.0

    def add(self, other: Tally) -> None:
        """Counts it in."""
        self.n_tokens += other.n_tokens
        self.n_steps += other.n_steps
        self.seconds += other.seconds

    @property
    def tokens_per_second(self) -> float:
        """0 before the first step."""
        return self.n_tokens / self.seconds if self.seconds else 0.0

    @property
    def acceptance_length(self) -> float:
        """Tokens a step; 0 before the first one."""
        return self.n_tokens / self.n_steps if self.n_steps else 0.0


@dataclass(frozen=True)
class Piece:
    """Text of an answer; ``drafted`` where its tokens are drafts that the verifier accepted."""

    text: str
    drafted: bool


class Runner:
    """A model and the answer that it is giving.

    Args:
        llm: greedy; drafts if it has a drafter.

    Attributes:
        tokens: of the answer so far.
        pieces: their text.
        tally: of this answer.
        finished: it ended, or is as long as was wanted.
    """

    def __init__(self, name: str, llm: Llama) -> None:
        if llm.session is None:
            raise BackendError(f"{llm.model_path} cannot generate: it has no memory of a text")
        self.name = name
        self._llm = llm
        self._session = llm.session
        self.drafts = llm.session.drafter is not None

    def begin(self, prompt: str, max_tokens: int) -> None:
        """Reads the prompt and gives the first token of the answer.

        Raises:
            PromptError: the model's chat template refuses it.
            ContextError: it does not fit the context.
        """
        self.tokens: list[int] = []
        self.pieces: list[Piece] = []
        self.tally = Tally()
        self.finished = False
        self._max_tokens = max_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._session.start_answer()
        self._session.sync(_chat_tokens(self._llm, prompt))
        self._take(self._session.step(max_tokens=max_tokens))

    def step(self) -> None:
        """One step, timed."""
        n_left = self._max_tokens - len(self.tokens)
        begun = time.perf_counter()
        result = self._session.step(max_tokens=n_left)
        self.tally.add(Tally(len(result.tokens), 1, time.perf_counter() - begun))
        self._take(result)

    def _take(self, result: StepResult) -> None:
        self.tokens += result.tokens
        for place, token in enumerate(result.tokens):
            text = self._decoder.decode(self._llm.detokenize([token]))
            self.pieces.append(Piece(text, drafted=place < result.n_accepted))
        enough = len(self.tokens) >= self._max_tokens
        self.finished = enough or result.finish is not Finish.none


def race(runners: Sequence[Runner], show: Callable[[], None]) -> None:
    """Lets each of them finish; ``show`` is called after every step.

    Whoever has used less time is next, so both are seen where they stand after the same seconds of
    their own. What is shown costs neither of them time.
    """
    while running := [runner for runner in runners if not runner.finished]:
        min(running, key=lambda runner: runner.tally.seconds).step()
        show()


def agreement(one: Runner, other: Runner) -> str:
    """Whether two answers are the same, in words."""
    if one.tokens == other.tokens:
        return "the answers are the same, token for token"
    pairs = enumerate(zip(one.tokens, other.tokens, strict=False))
    fewer = min(len(one.tokens), len(other.tokens))
    parted = next((place for place, (a, b) in pairs if a != b), fewer)
    return f"the answers are the same for {parted} tokens"


def _chat_tokens(llm: Llama, prompt: str) -> list[int]:
    return render_chat(llm, [{"role": "user", "content": prompt}]).tokens

"""What was measured, as plain data that goes to JSON and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

#: The parts of a verify step whose seconds the loop knows.
PARTS = ("draft", "verify", "sample", "inject")
#: ``Answer.mode`` of stock ``llama_cpp.Llama``, and of widths decided step by step; a fixed width's
#: mode is its number.
PLAIN, ADAPTIVE = "plain", "adaptive"
#: ``Answer.call``; the last one does not stop where the verifier would.
GENERATE, CHAT, PAST_END = "generate", "create_chat_completion", "generate past the end"


@dataclass(frozen=True)
class Step:
    """One verify step.

    Attributes:
        n_drafted: drafts verified.
        n_accepted: drafts among the tokens emitted.
        n_emitted: tokens handed out, correction or bonus included; fewer than were computed where
            the answer ended inside the block.
        seconds: by part, see ``PARTS``.
    """

    n_drafted: int
    n_accepted: int
    n_emitted: int
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Answer:
    """One answer to one prompt.

    Attributes:
        prompt: id of the prompt.
        mode: ``PLAIN``, ``ADAPTIVE``, or the width as a string.
        round: from 0 on; modes alternate within a round.
        tokens: generated, the one that ended the answer included.
        times: seconds from the request to each token, as many as ``tokens``.
        steps: verify steps in their order; the first token comes from the prompt and has none.
            Empty for plain decoding.
        seconds_prompt: of ``times[0]``, by part: "prefill" (verifier) and "inject" (drafter).
            Empty for plain decoding.
        call: the method that was asked; of ``CHAT`` only tokens and times are known, and a time is
            when the caller was done with the token.
        correct: whether the answer passed the prompt's check; None where there is no check.
        ended: the verifier ended it; else it was cut.
    """

    prompt: str
    category: str
    mode: str
    round: int
    n_prompt: int
    tokens: list[int]
    times: list[float]
    steps: list[Step] = field(default_factory=list)
    seconds_prompt: Mapping[str, float] = field(default_factory=dict)
    correct: bool | None = None
    ended: bool = False
    call: str = GENERATE

    @property
    def n_tokens(self) -> int:
        """Tokens generated."""
        return len(self.tokens)

    @property
    def seconds_decoding(self) -> float:
        """From the first token to the last."""
        return self.times[-1] - self.times[0]


@dataclass(frozen=True)
class Difference:
    """Where an answer first differs from the plain one.

    Attributes:
        position: index among the generated tokens.
        margin: the plain logits there, best less second best.
    """

    prompt: str
    mode: str
    position: int
    margin: float


def answer_to_dict(answer: Answer) -> dict[str, Any]:
    """Plain values for JSON."""
    return asdict(answer)


def answer_from_dict(values: Mapping[str, Any]) -> Answer:
    """The inverse of ``answer_to_dict``."""
    steps = [Step(**step) for step in values["steps"]]
    return Answer(**{**values, "steps": steps})

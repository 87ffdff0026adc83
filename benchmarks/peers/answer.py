"""What is asked of an engine, and what is kept of an answer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

STOCK = "llama_cpp"
OURS = "dflash-local"
ADAPTIVE = "dflash-local adaptive"
UPSTREAM = "xllamacpp"
EAGLE3 = "xllamacpp eagle3"
MTP = "xllamacpp mtp"
TORCH = "z-lab torch"

# Ours decodes plainly as stock llama_cpp does: the same build of libllama.
_PLAIN = {OURS: STOCK, ADAPTIVE: STOCK, EAGLE3: UPSTREAM, MTP: UPSTREAM}


@dataclass(frozen=True)
class Variant:
    """One engine at one draft length.

    Attributes:
        engine: one of the names above.
        width: drafts a step, upstream's ``n_max``; 0 is plain decoding. The most that adaptive
            widths may choose.
    """

    engine: str
    width: int

    @property
    def plain(self) -> Variant:
        """What its speed-up is over."""
        return Variant(_PLAIN.get(self.engine, self.engine), 0)


@dataclass(frozen=True)
class Answer:
    """One greedy answer of one engine.

    Attributes:
        n_tokens: tokens generated, the first and an end of generation included.
        seconds: from the first token to the last.
        seconds_to_first: from the request to the first token; the drafter reads the prompt too.
        n_steps: verify steps.
        n_drafted: drafts verified.
        n_accepted: drafts accepted.
        output: the text or the token ids; comparable within one engine only.
    """

    n_tokens: int
    seconds: float
    seconds_to_first: float
    n_steps: int
    n_drafted: int
    n_accepted: int
    output: str

    @property
    def seconds_per_token(self) -> float | None:
        """Of decoding: the first token comes from the prompt. None: nothing was decoded."""
        steps = self.n_tokens - 1
        return self.seconds / steps if steps > 0 and self.seconds > 0 else None


@dataclass(frozen=True)
class Record:
    """An answer and where it belongs."""

    weights: str
    variant: Variant
    prompt: int
    round: int
    answer: Answer

    def as_dict(self) -> dict[str, Any]:
        """Plain values, one level deep."""
        rest = {"weights": self.weights, "prompt": self.prompt, "round": self.round}
        return {**asdict(self.variant), **rest, **asdict(self.answer)}

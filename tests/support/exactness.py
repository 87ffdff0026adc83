"""What counts as the same answer, and the prompts it is asked over.

Batched evaluation rounds differently from one row at a time, so two greedy decodings of one model
may part where two logits nearly tie. A difference is *explained* when, in plain evaluation of the
text before it, both tokens lie within a stated margin of the best logit; nothing else is.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
from models.tiny_text import IM_END, SPECIAL, prompt

import dflash_local
from dflash_local import _core
from dflash_local.files.drafter_file import read_drafter
from dflash_local.runtime.drafter import LoadedDrafter, address

Floats = npt.NDArray[np.float32]

#: Every tiny drafter, by the name of its file.
DRAFTERS = (
    "dflash-b4",
    "dflash-b8",
    "dflash-b8-d2t",
    "dflash2-b8",
    "dspark-b7-anchor",
    "dspark-b8",
)
#: Tiny matrices on several threads are slower than on one, and slowest on a busy machine.
ONE_THREAD = {"n_threads": 1, "n_threads_batch": 1}
#: Where a tiny answer ends: <|endoftext|> and <|im_end|>.
END = (0, IM_END)


@dataclass(frozen=True)
class Difference:
    """Where two answers part; `gap` is how far the worse of the two tokens lies below the best."""

    position: int
    gap: float

    def explained(self, margin: float) -> bool:
        return self.gap <= margin


def tokenize(llm: llama_cpp.Llama, text: str) -> list[int]:
    tokens: list[int] = llm.tokenize(text.encode(), add_bos=False, special=True)
    return tokens


def tiny_prompts(llm: llama_cpp.Llama, n: int, seed: int) -> list[list[int]]:
    """Prompts of the text the tiny models were trained on."""
    rng = random.Random(seed)
    return [tokenize(llm, prompt(rng)) for _ in range(n)]


def random_prompts(llm: llama_cpp.Llama, n: int, seed: int) -> list[list[int]]:
    """Pieces of that text with random tokens between: what comes next is hard to tell."""
    rng = random.Random(seed)
    prompts = []
    for _ in range(n):
        tokens: list[int] = []
        for _ in range(rng.randint(1, 4)):
            piece = tokenize(llm, prompt(rng))
            start = rng.randrange(len(piece))
            tokens += piece[start : start + rng.randint(1, 24)]
            tokens += rng.choices(range(len(SPECIAL), llm.n_vocab()), k=rng.randint(0, 6))
        prompts.append(tokens)
    return prompts


def generated(tokens: Iterable[int], n: int) -> list[int]:
    """The first n tokens of a generator, or fewer if the answer ends."""
    out = []
    for token in tokens:
        out.append(token)
        if token in END or len(out) == n:
            break
    return out


def greedy(llm: llama_cpp.Llama, tokens: Sequence[int], n: int) -> list[int]:
    return generated(llm.generate(tokens, temp=0.0), n)


def answers(llm: Any, prompts: Iterable[Sequence[int]], n: int = 32) -> list[list[int]]:
    """Greedy answers of n tokens, each from an empty memory."""
    found = []
    for tokens in prompts:
        llm.reset()
        found.append(greedy(llm, tokens, n))
    return found


def exact_widths(llm: dflash_local.Llama) -> tuple[int, ...]:
    """The widths that were found to be exact."""
    assert llm.exact_widths is not None
    return llm.exact_widths.widths


def verified_widths(llm: dflash_local.Llama) -> set[int]:
    """The numbers of drafts that were verified since the model was loaded."""
    return {width for width, n in enumerate(llm.stats.total.verified_per_width) if n}


def counts(llm: Any) -> tuple[int, int]:
    """Tokens drafted and accepted since the model was loaded."""
    total = llm.stats.total
    return total.n_drafted, total.n_accepted


def assert_mixed(before: tuple[int, int], after: tuple[int, int]) -> None:
    """Between two counts some drafts were accepted and some rejected: else nothing was tested."""
    drafted, accepted = after[0] - before[0], after[1] - before[1]
    assert 0 < accepted < drafted, f"{accepted} of {drafted} drafts accepted"


def last_logits(llm: llama_cpp.Llama) -> Floats:
    """The logits after the last token evaluated, [n_vocab]."""
    row = llama_cpp.llama_get_logits_ith(llm._ctx.ctx, -1)
    out: Floats = np.ctypeslib.as_array(row, (llm.n_vocab(),)).copy()
    return out


def logits_after(llm: llama_cpp.Llama, tokens: Sequence[int]) -> Floats:
    """The logits after `tokens`, evaluated plainly in one batch."""
    llm.reset()
    llm.eval(tokens)
    return last_logits(llm)


def first_difference(
    stock: llama_cpp.Llama, tokens: Sequence[int], plain: Sequence[int], drafted: Sequence[int]
) -> Difference | None:
    """Where two answers to the prompt `tokens` part; `stock` gives the logits there."""
    if plain == drafted:
        return None
    for i, (a, b) in enumerate(zip(plain, drafted, strict=False)):
        if a != b:
            logits = logits_after(stock, [*tokens, *plain[:i]])
            return Difference(i, float(logits.max() - min(logits[a], logits[b])))
    return Difference(min(len(plain), len(drafted)), float("inf"))  # one stopped short


def rounding(llm: llama_cpp.Llama, tokens: Sequence[int]) -> float:
    """The largest difference of a logit between one batch and one row at a time.

    `llm` keeps the logits of every row (`logits_all`).
    """
    llm.reset()
    llm.eval(tokens)
    batched = llm.scores[: len(tokens)].copy()
    llm.reset()
    for token in tokens:
        llm.eval([token])
    return float(np.abs(llm.scores[: len(tokens)] - batched).max())


@contextmanager
def session_on(
    llm: llama_cpp.Llama, drafter: Path, layers: Sequence[int] | None = None
) -> Iterator[dflash_local.Session]:
    """A session made by hand over a stock verifier; `layers` replaces the drafter's own."""
    info = read_drafter(drafter)
    loaded = LoadedDrafter(info, llm._ctx.ctx, llm.context_params)
    verifier = _core.Verifier(
        address(llm._ctx.ctx),
        max_rows=llm.n_batch,
        feature_layers=info.target_layers if layers is None else layers,
    )
    session = dflash_local.Session(verifier, loaded.core, width=loaded.core.max_width)
    try:
        yield session
    finally:
        session.close()
        loaded.close()

"""Training that goes on from the drafter in use, in the time that there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from dflash_local import train
from dflash_local.train.conversations import Conversation, to_line
from dflash_local.train.draft_vocab import proposed_tokens
from dflash_local.train.finish import GGUF
from dflash_local.train.from_gguf import checkpoint_of, matrix_type
from dflash_local.train.loop import FitProgress, Score
from dflash_local.train.verifiers.open_verifier import open_verifier
from dflash_local.train.workspace import Workspace

from .options import LearnOptions
from .pace import Pace
from .places import Places

_LOOK = 25  # steps between two looks at text that is not trained on
_GUESS = 500  # steps that the first ones are warmed up for; then it is known what a step takes
# Share and number, the larger one, of what is learned from: it says which weights are the best.
_HELD_OUT, _HELD_OUT_TEXTS = 0.1, 5


class _TimeIsUpError(Exception):
    """No other step is to be taken."""


class _Watch(train.Progress):
    """Makes way for models that answer, and ends the fit in time.

    Args:
        reserve: seconds of work that are wanted after it.
        looks: at text that is not trained on, after which it ends too.
    """

    def __init__(
        self, told: train.Progress, pace: Pace, reserve: float, looks: int | None = None
    ) -> None:
        self._told = told
        self._pace = pace
        self._reserve = reserve
        self._looks = looks
        self._last = pace.worked
        self.seconds: list[float] = []  # of each step

    def count(self, what: str, done: int, total: int) -> None:
        self._told.count(what, done, total)

    def say(self, line: str) -> None:
        if self._looks is not None:  # else the same was said before
            self._told.say(line)

    def fitted(self, progress: FitProgress, score: Score | None) -> None:
        self._told.fitted(progress, score)
        self._pace.make_way()
        if score is not None:
            self.seconds.append(self._pace.worked - self._last)
        self._last = self._pace.worked
        over = self._pace.left < self._reserve
        looked = score is None and self._looks is not None and len(progress.log) > self._looks
        if looked or over:
            raise _TimeIsUpError


def fit(
    options: LearnOptions,
    places: Places,
    texts: Sequence[Conversation],
    folder: Path,
    pace: Pace,
    progress: train.Progress,
    reserve: float,
) -> Path:
    """Trains until the time is up, or until it no longer gets better; gives the new GGUF.

    Args:
        folder: for all of it; empty.
        reserve: seconds of work that are wanted afterwards.
    """
    wanted = _options(options, places, texts, folder)
    first = _Watch(progress, pace, reserve, looks=1)
    _fit(wanted, first)
    step = median(first.seconds) if first.seconds else 1.0
    n_steps = len(first.seconds) + int((pace.left - reserve) / step)
    wanted = replace(
        wanted, fit=replace(wanted.fit, steps=max(1, min(n_steps, options.most_steps)))
    )
    _fit(wanted, _Watch(progress, pace, reserve))
    train.simulate(wanted)
    return Workspace(wanted, open_verifier(wanted)).export / GGUF


def _fit(wanted: train.TrainOptions, watch: _Watch) -> None:
    try:
        train.fit(wanted, watch)
    except _TimeIsUpError:
        return  # the best weights of the last look are in the folder


def _options(
    options: LearnOptions, places: Places, texts: Sequence[Conversation], folder: Path
) -> train.TrainOptions:
    tokens = folder / "answers.jsonl"
    tokens.write_text("".join(map(to_line, texts)), encoding="utf-8")
    held_out = max(_HELD_OUT, _HELD_OUT_TEXTS / len(texts))
    init = checkpoint_of(places.drafter, places.verifier, folder / "before")
    return train.TrainOptions(
        places.verifier,
        folder / "drafter",
        train.Data(tokens=(tokens,), held_out=held_out, max_length=options.length),
        train.DrafterShape(init=init),
        train.FitOptions(
            steps=_GUESS,
            learning_rate=options.learning_rate,
            evaluate_every=_LOOK,
            seed=options.seed,
        ),
        threads=options.threads,
        gpu_layers=options.gpu_layers,
        outtype=matrix_type(places.drafter),
        # A head of all tokens stays one; of fewer, none of them goes.
        draft_vocab="all" if proposed_tokens(places.drafter) is None else None,
    )

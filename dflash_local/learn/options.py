"""Everything that can be said about learning from a record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LearnOptions:
    """What is learned from, by what, and for how long.

    Attributes:
        folder: in which answers were recorded.
        verifier: whose answers are used; None: of the newest one in the record.
        drafter: the one to go on from; None: that of the newest answer.
        to: the file that a better drafter replaces; None: see ``places.Places``.
        minutes: of work; pauses in which a model answers do not count.
        most_steps: updates of the weights at most, where the time allows more.
        threads: of the fit and of the replay.
        learning_rate: the highest.
        replayed: share of the answers that is held out for the replay.
        length: tokens of an answer and its prompt that are learned from; longer texts are cut.
        seed: of the order of texts and of the blocks drawn from them.
    """

    folder: Path
    verifier: Path | None = None
    drafter: Path | None = None
    to: Path | None = None
    minutes: float = 20.0
    most_steps: int = 4000
    threads: int = 1
    gpu_layers: int = 0
    learning_rate: float = 5e-4
    replayed: float = 0.2
    length: int = 1024
    seed: int = 1

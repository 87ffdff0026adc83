"""Held-out text through the real draft loop: does the exported drafter do what training said?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dflash_local import Llama
from dflash_local.errors import BackendError
from dflash_local.files.drafter_file import read_drafter

from .capture import Reading
from .conversations import Conversation

#: A text, what the verifier makes of it, and positions of anchors, ascending.
Anchored = tuple[Conversation, Reading, Sequence[int]]

#: A simulated length is far from the trained estimate beyond this share of it, ...
TOLERANCE = 0.1
#: ... and beyond so many standard errors of the simulation.
ERRORS = 3.0


#: Said in place of a simulation.
NOT_TRIED = "not tried in the real loop: no GGUF of the verifier (--gguf)"


@dataclass(frozen=True)
class Simulation:
    """What the exported drafter did at anchors of held-out text, the verifier being greedy.

    Attributes:
        accepted: drafts accepted a block, mean.
        error: its standard error.
        reached: [k] share of blocks with at least k + 1 drafts accepted.
        n_blocks: anchors tried.
    """

    accepted: float
    error: float
    reached: list[float]
    n_blocks: int

    def is_far_from(self, estimate: float) -> bool:
        """Whether training promised something else."""
        distance = abs(self.accepted - estimate)
        return distance > max(TOLERANCE * (1 + estimate), ERRORS * self.error)


def simulate(
    verifier: Path,
    drafter: Path,
    texts: Iterable[Anchored],
    *,
    n_ctx: int,
    n_threads: int,
    n_gpu_layers: int = 0,
) -> Simulation:
    """Drafts at anchors of texts, and counts what the verifier's own readings would accept.

    Raises:
        BackendError: nothing can be drafted for this verifier.
    """
    with RealLoop(
        verifier, drafter, n_ctx=n_ctx, n_threads=n_threads, n_gpu_layers=n_gpu_layers
    ) as loop:
        accepted = [n for text in texts for n in loop.accepted(*text)]
    return _summary(np.array(accepted), loop.width)


class RealLoop:
    """A pair in the loop that will run it, drafting blocks of the drafter's full width.

    Attributes:
        width: drafts a block.

    Raises:
        BackendError: nothing can be drafted for this verifier.
    """

    def __init__(
        self, verifier: Path, drafter: Path, *, n_ctx: int, n_threads: int, n_gpu_layers: int = 0
    ) -> None:
        self.width = read_drafter(drafter).max_width
        self._llm = Llama(
            str(verifier),
            drafter=str(drafter),
            width=self.width,  # of every block: a session alone drafts as many as pay
            n_ctx=n_ctx,
            n_threads=n_threads,
            n_threads_batch=n_threads,
            n_gpu_layers=n_gpu_layers,
            verbose=False,
        )
        if self._llm.session is None or self._llm.session.drafter is None:
            self._llm.close()
            raise BackendError(f"{verifier}: nothing can be drafted for it")
        self._session = self._llm.session

    def accepted(
        self, text: Conversation, reading: Reading, anchors: Sequence[int]
    ) -> Iterator[int]:
        """Of each block, the drafts that the verifier, being greedy, would keep.

        Args:
            anchors: positions in the text, ascending.
        """
        session = self._session
        for anchor in anchors:
            session.sync(text.tokens[:anchor])
            session.anchor(text.tokens[anchor])
            drafts = session.propose().tokens
            session.discard()
            # Judged, as in training, as far as the text goes.
            end = min(anchor + len(drafts), len(text.tokens) - 1)
            yield _prefix(drafts, reading.ids[anchor:end, 0].tolist())

    def __enter__(self) -> RealLoop:
        return self

    def __exit__(self, *_: object) -> None:
        self._llm.close()


def _prefix(drafts: Sequence[int], wanted: Sequence[int]) -> int:
    hits = [a == b for a, b in zip(drafts, wanted, strict=False)]
    return hits.index(False) if False in hits else len(hits)


def _summary(accepted: np.ndarray, width: int) -> Simulation:
    n = len(accepted)
    if n == 0:
        raise BackendError("no held-out answer is longer than a token: nothing to simulate")
    return Simulation(
        accepted=float(accepted.mean()),
        error=float(accepted.std() / np.sqrt(n)),
        reached=[float((accepted > k).mean()) for k in range(width)],
        n_blocks=n,
    )

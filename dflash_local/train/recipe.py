"""A training, whole or a step at a time; what is done already lies in its folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from dflash_local.errors import DFlashError

from . import finish
from .account import Asked
from .answers import make_answers
from .conversations import Conversation
from .data import make_prompts
from .loop import Fit, Fitted
from .options import TrainOptions
from .prepared import Prepared, prepared
from .processes import Processes, check_batch_size
from .progress import Progress
from .simulation import Simulation
from .to_gguf import check_draft_vocab
from .verifiers.open_verifier import open_verifier
from .verifiers.verifier import Verifier
from .workspace import Workspace

_SILENT = Progress()


@dataclass(frozen=True)
class Summary:
    """How a training ended.

    Attributes:
        folder: holds the drafter's files and the report.
        drafter: its GGUF; None where there is no GGUF of the verifier, and in other processes than
            the first.
        steps: updates of the weights.
        best_step: the one after which they did best.
        accepted: drafts accepted a block then, on held-out text.
        simulation: how the drafter did in the real loop; None where ``drafter`` is None.
        rank: of this process among those that trained together; the first, 0, writes the files.
    """

    folder: Path
    drafter: Path | None
    steps: int
    best_step: int
    accepted: float
    simulation: Simulation | None
    rank: int = 0


def train(
    options: TrainOptions, progress: Progress = _SILENT, *, command: str | None = None
) -> Summary:
    """Makes a drafter: ``prompts``, ``generate``, ``fit``, ``simulate`` and ``export`` in turn.

    An interrupted training goes on where it was when it is called again with the same options, and
    ends with the same weights. Torch's number of threads is set to ``options.threads``. Under
    ``torchrun`` or ``accelerate launch`` the processes share the work, each calling this.

    Args:
        progress: told how it goes.
        command: what the report says asked for it.

    Raises:
        DFlashError: something cannot be used, says what and why; another training is at work in
            the folder; it is of a training with other settings; or the drafter drafts otherwise
            than training promised.
        OSError: a file cannot be read or written.
    """
    with _opened(options, progress) as run:
        _ask(run)
        _answer(run)
        with _ready(run) as (ready, fit):
            fit.run(progress.fitted)
            return _finished(run, ready, fit.fitted, command)


def prompts(options: TrainOptions, progress: Progress = _SILENT) -> Asked | None:
    """Makes tokens of the user's rows, or has the verifier make up what it is asked.

    Returns:
        What became of the rows; None in a folder of a time that did not count them.

    Raises:
        DFlashError, OSError: as ``train``.
    """
    with _opened(options, progress) as run:
        _ask(run)
        return run.work.read_account()


def generate(options: TrainOptions, progress: Progress = _SILENT) -> list[Conversation]:
    """Has the verifier, or a server that runs it, answer the prompts, which are made if need be.

    Returns:
        The prompts with their answers, those of ``options.data.tokens`` not among them.

    Raises:
        DFlashError, OSError: as ``train``.
    """
    with _opened(options, progress) as run:
        _ask(run)
        _answer(run)
        return run.work.read_conversations()


def fit(options: TrainOptions, progress: Progress = _SILENT) -> Fitted:
    """Trains on the conversations that ``generate`` left, and on ``options.data.tokens``.

    Raises:
        DFlashError, OSError: as ``train``.
    """
    with _opened(options, progress) as run, _ready(run) as (_, fit):
        fit.run(progress.fitted)
        return fit.fitted


def simulate(options: TrainOptions, progress: Progress = _SILENT) -> Simulation | None:
    """Makes the drafter's files and drafts with them in the real loop, on held-out text.

    Returns:
        None where there is no GGUF of the verifier, and in other processes than the first.

    Raises:
        DFlashError: nothing was trained yet; else as ``train``.
        OSError: as ``train``.
    """
    with _opened(options, progress) as run, _ready(run) as (ready, fit):
        return _tried(run, ready, fit.fitted) if run.is_first else None


def export(
    options: TrainOptions, progress: Progress = _SILENT, *, command: str | None = None
) -> Summary:
    """Simulates, then writes the drafter's files and the report to ``options.out``.

    Args:
        command: what the report says asked for it.

    Raises:
        DFlashError: nothing was trained yet; else as ``train``.
        OSError: as ``train``.
    """
    with _opened(options, progress) as run, _ready(run) as (ready, fit):
        return _finished(run, ready, fit.fitted, command)


# ---- what the steps share ------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    """A training's folder and verifier, opened."""

    options: TrainOptions
    progress: Progress
    verifier: Verifier
    work: Workspace
    processes: Processes

    @property
    def is_first(self) -> bool:
        """Whether this process writes what is not of each process."""
        return self.processes.rank == 0

    def say(self, lines: Iterable[str]) -> None:
        """Tells the user, once."""
        for line in lines if self.is_first else ():
            self.progress.say(line)


@contextmanager
def _opened(options: TrainOptions, progress: Progress) -> Iterator[_Run]:
    check_batch_size(options.fit.batch_size)
    processes = Processes(options.threads)
    try:
        verifier = open_verifier(options)
        check_draft_vocab(options, verifier.gguf)
        work = _shared_workspace(options, verifier, processes)
        # The first process keeps other runs out of the folder, for all of its own.
        with work.alone() if processes.rank == 0 else nullcontext():
            yield _Run(options, progress, verifier, work, processes)
    finally:
        processes.close()


def _shared_workspace(options: TrainOptions, verifier: Verifier, processes: Processes) -> Workspace:
    """The folder, made by the first process: two would be in each other's way."""
    if processes.rank:
        processes.wait()
    work = Workspace(options, verifier)
    if not processes.rank:
        processes.wait()
    return work


def _ask(run: _Run) -> None:
    if run.is_first:
        asked = make_prompts(run.options, run.verifier, run.work, run.progress.count)
        run.say([] if asked is None else asked.lines(examples=True))
    run.processes.wait()


def _answer(run: _Run) -> None:
    if run.is_first:
        make_answers(run.options, run.verifier, run.work, run.progress.count)
    run.processes.wait()


@contextmanager
def _ready(run: _Run) -> Iterator[tuple[Prepared, Fit]]:
    """What is fitted, and the fit as far as it has come."""
    with prepared(run.options, run.verifier, run.work, run.processes) as ready:
        run.say(ready.texts.used.lines())
        yield (
            ready,
            Fit(
                ready.untrained(),
                ready.vocabulary,
                ready.examples(),
                ready.looked_at(run.processes),
                run.options.fit,
                run.work.folder,
                run.processes,
            ),
        )


def _tried(run: _Run, ready: Prepared, fitted: Fitted) -> Simulation | None:
    if not fitted.progress.log:
        raise DFlashError(f"{run.work.folder}: no drafter was trained here yet: `fit` comes first")
    simulation = finish.try_out(ready, fitted, run.work, run.progress.say)
    run.progress.simulated(simulation)
    return simulation


def _finished(run: _Run, ready: Prepared, fitted: Fitted, command: str | None) -> Summary:
    simulation = drafter = None
    if run.is_first:
        simulation = _tried(run, ready, fitted)
        drafter = finish.export(ready, fitted, run.work, simulation, command)
    known = fitted.progress
    return Summary(
        run.options.out,
        drafter,
        known.step,
        known.best_step,
        known.best,
        simulation,
        run.processes.rank,
    )

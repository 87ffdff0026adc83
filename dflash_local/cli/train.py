"""``dflash-local train``: a drafter for a verifier, from prompts to GGUF."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from dflash_local.cli.train_gguf import check_draft_vocab, to_gguf
from dflash_local.cli.train_options import STEPS, Arguments, parse
from dflash_local.cli.train_progress import TrainProgress, shown
from dflash_local.errors import DFlashError

if TYPE_CHECKING:
    from dflash_local.train.options import TrainOptions
    from dflash_local.train.processes import Processes
    from dflash_local.train.verifier import Verifier
    from dflash_local.train.workspace import Workspace


def main(argv: list[str]) -> int:
    """Run the subcommand; returns the exit status."""
    arguments = parse(argv)
    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        print(
            f"dflash-local train: training needs {' and '.join(missing)}: "
            "pip install 'dflash-local[train]'",
            file=sys.stderr,
        )
        return 1
    try:
        options = _options(arguments)
        with shown(options.fit.steps) as progress, _warnings_shown(progress):
            _run(arguments.step, options, progress)
    except KeyboardInterrupt:
        print("dflash-local train: interrupted; the same command goes on", file=sys.stderr)
        return 130
    except (DFlashError, OSError) as error:
        print(f"dflash-local train: {error}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def _warnings_shown(progress: TrainProgress) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: progress.say(f"warning: {message}")
        yield


def _run(step: str | None, options: TrainOptions, progress: TrainProgress) -> None:
    from dflash_local.busy import BusyWatch
    from dflash_local.train.open_verifier import open_verifier
    from dflash_local.train.processes import Processes, check_batch_size

    check_batch_size(options.fit.batch_size)
    processes, wanted = Processes(options.threads), STEPS if step is None else (step,)
    verifier = open_verifier(options)
    check_draft_vocab(options, verifier.gguf)
    work = _shared_workspace(options, verifier, processes)
    # The first process keeps other runs out of the folder, for all of its own.
    alone = work.alone() if processes.rank == 0 else nullcontext()
    with alone, BusyWatch(options.threads):
        _steps(wanted, options, verifier, work, processes, progress)


def _steps(
    wanted: Sequence[str],
    options: TrainOptions,
    verifier: Verifier,
    work: Workspace,
    processes: Processes,
    progress: TrainProgress,
) -> None:
    from dflash_local.train import answers, data, finish, pipeline

    if {"prompts", "generate"} & set(wanted) and processes.rank == 0:
        asked = data.make_prompts(options, verifier, work, progress.count)
        progress.say_all([] if asked is None else asked.lines(examples=True))
    if "generate" in wanted and processes.rank == 0:
        answers.make_answers(options, verifier, work, progress.count)
    processes.wait()
    if not {"fit", "simulate", "export"} & set(wanted):
        return
    training = pipeline.Training(options, verifier, work, processes)
    try:
        if processes.rank == 0:
            progress.say_all(training.used.lines())
        if "fit" in wanted:
            training.fit.run(progress.fitted)
        if processes.rank == 0 and {"simulate", "export"} & set(wanted):
            simulation = finish.try_out(training, work, partial(to_gguf, progress.say))
            progress.simulated(simulation)
            if "export" in wanted:
                print(finish.export(training, work, simulation))
    finally:
        training.close()
        processes.close()


def _shared_workspace(options: TrainOptions, verifier: Verifier, processes: Processes) -> Workspace:
    """The folder, made by the first process: two would be in each other's way."""
    from dflash_local.train.workspace import Workspace

    if processes.rank:
        processes.wait()
    work = Workspace(options, verifier)
    if not processes.rank:
        processes.wait()
    return work


def _options(arguments: Arguments) -> TrainOptions:
    from dflash_local.train.loop import FitOptions
    from dflash_local.train.options import Data, DrafterShape, TrainOptions

    return TrainOptions(
        arguments.verifier,
        arguments.out,
        Data(**arguments.data),
        DrafterShape(**arguments.shape),
        FitOptions(**arguments.fit),
        **arguments.run,
    )

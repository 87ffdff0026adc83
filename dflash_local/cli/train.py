"""``dflash-local train``: a drafter for a verifier, from prompts to GGUF."""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dflash_local.cli.train_options import STEPS, Arguments, parse
from dflash_local.errors import DFlashError

if TYPE_CHECKING:
    from dflash_local.train.loop import Progress as FitProgress
    from dflash_local.train.loop import Score
    from dflash_local.train.options import TrainOptions
    from dflash_local.train.simulate import Simulation

_SECONDS_A_LINE = 30.0


def main(argv: list[str]) -> int:
    """Run the subcommand; returns the exit status."""
    arguments = parse(argv)
    try:
        import torch
    except ImportError:
        print(
            "dflash-local train: training needs torch: pip install 'dflash-local[train]'",
            file=sys.stderr,
        )
        return 1
    torch.set_num_threads(arguments.run["threads"])
    try:
        _run(arguments)
    except KeyboardInterrupt:
        print("dflash-local train: interrupted; the same command goes on", file=sys.stderr)
        return 130
    except (DFlashError, OSError) as error:
        print(f"dflash-local train: {error}", file=sys.stderr)
        return 1
    return 0


def _run(arguments: Arguments) -> None:
    from dflash_local.train import finish, pipeline
    from dflash_local.train.processes import Processes
    from dflash_local.train.workspace import Workspace

    options = _options(arguments)
    processes, lines = Processes(), _Lines()
    wanted = STEPS if arguments.step is None else (arguments.step,)
    work = Workspace(options)
    if "prompts" in wanted:
        pipeline.make_prompts(options, work, lines.count)
    if "generate" in wanted:
        pipeline.make_answers(options, work, lines.count)
    if not {"fit", "simulate", "export"} & set(wanted):
        return
    training = pipeline.Training(options, work, processes)
    try:
        if "fit" in wanted:
            training.fit.run(lines.fitted)
        if processes.rank == 0 and {"simulate", "export"} & set(wanted):
            simulation = finish.try_out(training, work, partial(_to_gguf, options))
            lines.simulated(simulation)
            if "export" in wanted:
                print(finish.export(training, work, simulation))
    finally:
        training.close()
        processes.close()


def _to_gguf(options: TrainOptions, folder: Path, target: Path) -> None:
    from dflash_local.convert import convert

    convert(folder, options.verifier, target, outtype=options.outtype)


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


class _Lines:
    """Progress, a line now and then."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def count(self, what: str, done: int, total: int) -> None:
        """Of a step that counts."""
        if time.monotonic() - self._last > _SECONDS_A_LINE:
            self._say(f"{what}: {done} of {total}")

    def fitted(self, progress: FitProgress, score: Score | None) -> None:
        """Of the fit: every look at held-out text, and a step now and then."""
        if score is None:
            last = progress.log[-1]
            self._say(
                f"step {progress.step}: {last['accepted']:.3f} drafts accepted a block on held-out "
                f"text (best {progress.best:.3f} at step {progress.best_step})"
            )
        elif time.monotonic() - self._last > _SECONDS_A_LINE:
            self._say(f"step {progress.step}: loss {score.loss:.3f}, accepted {score.accepted:.3f}")

    def simulated(self, simulation: Simulation) -> None:
        """Of the exported drafter."""
        self._say(
            f"in the real loop: {simulation.accepted:.3f} drafts accepted a block "
            f"(standard error {simulation.error:.3f}, {simulation.n_blocks} blocks)"
        )

    def _say(self, line: str) -> None:
        self._last = time.monotonic()
        print(f"dflash-local train: {line}", file=sys.stderr, flush=True)

"""``dflash-local train``: a drafter for a verifier, from prompts to GGUF."""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from dflash_local.cli.train_options import Arguments, parse
from dflash_local.cli.train_progress import TrainProgress, shown
from dflash_local.errors import DFlashError
from dflash_local.train.options import Data, DrafterShape, FitOptions, TrainOptions


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
    options = _options(arguments)
    # Names of files will do: where they lie is nobody's business.
    command = shlex.join(["dflash-local", "train", *(Path(part).name for part in argv)])
    try:
        with shown(options.fit.steps) as progress, _warnings_shown(progress):
            _run(arguments.step, options, progress, command)
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


def _run(step: str | None, options: TrainOptions, progress: TrainProgress, command: str) -> None:
    from dflash_local import train
    from dflash_local.machine.busy import BusyWatch

    with BusyWatch(options.threads):
        if step in ("prompts", "generate", "fit", "simulate"):
            getattr(train, step)(options, progress)
            return
        finish = train.export if step == "export" else train.train
        summary = finish(options, progress, command=command)
    if summary.rank == 0:
        print(summary.drafter or summary.folder)


def _options(arguments: Arguments) -> TrainOptions:
    return TrainOptions(
        arguments.verifier,
        arguments.out,
        Data(**arguments.data),
        DrafterShape(**arguments.shape),
        FitOptions(**arguments.fit),
        **arguments.run,
    )

"""``dflash-local learn``: a drafter that gets better by the answers that were recorded."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from dflash_local.cli.cores import physical_cores
from dflash_local.cli.numbers import non_negative, positive
from dflash_local.errors import DFlashError
from dflash_local.learn.options import LearnOptions
from dflash_local.train.progress import Progress

if TYPE_CHECKING:
    from dflash_local.train.loop import FitProgress, Score


def main(argv: list[str]) -> int:
    """Run the subcommand; returns the exit status."""
    arguments = vars(_parser().parse_args(argv))
    undoing = arguments.pop("undo", False)
    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        print(
            f"dflash-local learn: learning needs {' and '.join(missing)}: "
            "pip install 'dflash-local[train]'",
            file=sys.stderr,
        )
        return 1
    arguments.setdefault("threads", max(1, physical_cores() - 1))
    try:
        (_undo if undoing else _learn)(LearnOptions(**arguments))
    except KeyboardInterrupt:
        print("dflash-local learn: interrupted; the drafter is as it was", file=sys.stderr)
        return 130
    except (DFlashError, OSError, ValueError) as error:
        print(f"dflash-local learn: {error}", file=sys.stderr)
        return 1
    return 0


def _learn(options: LearnOptions) -> None:
    from dflash_local.learn import learn
    from dflash_local.learn.pace import be_polite
    from dflash_local.learn.report import summary

    be_polite()
    outcome = learn(options, _Lines())
    print(summary(outcome))
    print(outcome.report)


def _undo(options: LearnOptions) -> None:
    from dflash_local.learn import undo

    places = undo(options)
    print(f"{places.to} is the drafter that was in use before; --undo once more swaps them again")


class _Lines(Progress):
    """A line for what the user should know, on standard error."""

    def say(self, line: str) -> None:
        print(f"dflash-local learn: {line}", file=sys.stderr, flush=True)

    def fitted(self, progress: FitProgress, score: Score | None) -> None:
        if score is None:
            self.say(
                f"step {progress.step}: {progress.log[-1]['accepted']:.3f} drafts accepted a block "
                "on text that is not trained on"
            )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dflash-local learn",
        argument_default=argparse.SUPPRESS,
        description="Train the drafter in use further on recorded answers, replay others with both "
        "drafters, and put the new one in place where it is better. Runs at the lowest priority, "
        "and waits while a model that records in the folder answers.",
    )
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="in which answers were recorded (--record)")
    minutes = f"of work, without the pauses (default {LearnOptions.minutes:g})"
    add("--minutes", type=non_negative, metavar="N", help=minutes)
    add("--verifier", type=Path, metavar="V.gguf", help="default: that of the newest answer")
    add("--drafter", type=Path, metavar="D.gguf", help="default: that of the newest answer")
    to = "where a better one goes (default: the drafter's own file; see docs/learning.md)"
    add("--to", type=Path, metavar="D.gguf", help=to)
    threads = "CPU threads (default: one less than the physical cores)"
    add("--threads", type=positive, metavar="N", help=threads)
    add("--gpu-layers", type=int, metavar="N", help="of the verifier, -1 for all")
    rate = f"the highest learning rate (default {LearnOptions.learning_rate:g})"
    add("--learning-rate", type=non_negative, metavar="X", help=rate)
    add("--undo", action="store_true", help="put the drafter back that was in use before")
    return parser

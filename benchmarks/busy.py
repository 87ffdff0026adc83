"""Tokens a second beside 0, 1 and 2 processes that want a processor as well.

    python benchmarks/busy.py [--verifier V.gguf --drafter D.gguf] [--busy 0 1 2] [--all]

Stock ``llama_cpp.Llama`` and ours with OpenMP's threads as they are and as `dflash-local` has them
(docs/busy.md), in turn; `--all` adds other settings. Each has a process of its own, for how
OpenMP's threads wait is decided once a process. Medians over rounds. The machine should be left
alone otherwise: what strangers took is told beside.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import sys
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import llama_cpp
from busy.load import StrangersWork, busy_processes
from busy.settings import MORE, SETTINGS, Answerer, Setting

from dflash_local.cli.cores import physical_cores
from dflash_local.cli.numbers import natural, positive
from dflash_local.files import demo_pair

_DRAFTERS = Path(__file__).resolve().parents[1] / "drafters"
_DRAFTER = _DRAFTERS / "smollm2-135m-python-classes" / "drafter.gguf"


def main(arguments: argparse.Namespace) -> int:
    """Returns the exit status."""
    verifier = arguments.verifier or demo_pair.verifier()
    drafter = arguments.drafter or _DRAFTER
    settings = [*SETTINGS, *(MORE if arguments.all else ())]
    speeds: dict[tuple[Setting, int], list[float]] = defaultdict(list)
    strangers: dict[int, list[float]] = defaultdict(list)
    shuffle = random.Random(0).shuffle
    with ExitStack() as stack:
        answerers = {}
        for setting in settings:
            answerers[setting] = Answerer(setting, verifier, drafter, arguments.threads)
            stack.callback(answerers[setting].close)
        for _ in range(arguments.rounds):
            for n_busy in arguments.busy:
                shuffle(settings)
                with busy_processes(n_busy):
                    work = StrangersWork()
                    for setting in settings:
                        speed = answerers[setting].tokens_a_second(arguments.seconds)
                        speeds[setting, n_busy].append(speed)
                    strangers[n_busy].append(work.processors())
    _show(list(answerers), arguments, speeds, strangers)
    return 0


def _show(
    settings: list[Setting],
    arguments: argparse.Namespace,
    speeds: dict[tuple[Setting, int], list[float]],
    strangers: dict[int, list[float]],
) -> None:
    print(
        f"llama-cpp-python {llama_cpp.__version__}, {platform.system()}, {os.cpu_count()} CPUs, "
        f"{arguments.threads} threads; tokens a second, medians of {arguments.rounds} rounds "
        "(least to most)\n"
    )
    print(f"| busy processes | {' | '.join(map(str, arguments.busy))} |")
    print(f"|---|{'---:|' * len(arguments.busy)}")
    for setting in settings:
        cells = (_cell(speeds[setting, n]) for n in arguments.busy)
        print(f"| {setting.name} | {' | '.join(cells)} |")
    cells = (f"{median(strangers[n]):.2f}" for n in arguments.busy)
    print(f"| processors that strangers had | {' | '.join(cells)} |", flush=True)


def _cell(speeds: list[float]) -> str:
    return f"{median(speeds):.1f} ({min(speeds):.1f} to {max(speeds):.1f})"


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--verifier", type=Path, metavar="V.gguf", help="default: the demo's")
    parser.add_argument("--drafter", type=Path, metavar="D.gguf")
    parser.add_argument("--busy", type=natural, nargs="+", default=[0, 1, 2], metavar="N")
    parser.add_argument("--all", action="store_true", help="other settings of the threads as well")
    parser.add_argument("--seconds", type=float, default=1.5, metavar="S", help="of an answer")
    parser.add_argument("--rounds", type=positive, default=5, metavar="N")
    parser.add_argument("--threads", type=positive, default=physical_cores(), metavar="N")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(_parse(sys.argv[1:])))

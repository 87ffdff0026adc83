"""Adaptive widths where people really run them, against fixed widths and plain stock llama_cpp.

    python benchmarks/conditions.py [--widths 0 2 4 6] [--prompts 8]

The demo's verifier in BF16 and the drafter of a workload (drafters/smollm2-135m-python-classes), on
a quiet machine, beside a process that competes for the first second of the first load only, and
beside one that competes all along. All engines answer each prompt in turn. Adaptive widths begin
without any costs in each condition; halfway the pair is loaded anew, with the costs that it kept.
The first answer does not count. Aims: 0.97 of the best fixed width, 0.98 of plain.

OpenMP's threads wait as those of `dflash-local` do, for all engines (docs/busy.md). A machine on
which others work tells little: what they took is told beside.
"""

from __future__ import annotations

import argparse
import sys
from itertools import islice
from pathlib import Path

from dflash_local.cli.cores import physical_cores
from dflash_local.cli.numbers import natural, positive
from dflash_local.machine.openmp import spin_briefly

sys.path.append(str(Path(__file__).resolve().parents[1] / "drafters" / "workloads"))

from python_classes import prompts as python_classes

_SEEN = 1000  # prompts of the workload, which the drafter was trained on


def main(arguments: argparse.Namespace) -> int:
    """Returns the exit status."""
    spin_briefly()  # before libllama is loaded

    from conditions.condition import CONDITIONS
    from conditions.report import default_setup, run

    from dflash_local.machine.busy import BusyWatch

    setup = default_setup(arguments.widths, arguments.threads, arguments.max_tokens)
    asked = list(islice(python_classes(), _SEEN, _SEEN + arguments.prompts))
    with BusyWatch(arguments.threads):
        run(CONDITIONS, setup, asked)
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    widths = [0, 2, 3, 4, 5, 6]
    parser.add_argument("--widths", type=natural, nargs="+", default=widths, metavar="N")
    parser.add_argument("--prompts", type=positive, default=8, metavar="N")
    parser.add_argument("--max-tokens", type=positive, default=64, metavar="N")
    parser.add_argument("--threads", type=positive, default=physical_cores(), metavar="N")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(_parse(sys.argv[1:])))

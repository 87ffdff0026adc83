"""Does everything to models that an application may, at random, from several threads at once.

    python benchmarks/robustness.py --minutes 10 [--seed N] [--demo 0.25]

Loads, closes, cancels, abandoned generators and questions on the tiny pairs, a hybrid verifier,
verifiers without a drafter and, in a share of the children, the demo pair. Each child process works
with a seed of its own; a crash or a hang is told with the seed and a traceback, and the next child
goes on. `--seed N --children 1` repeats the choices of one child, though not what its threads do to
each other. Answers are held against stock llama_cpp's on the same files, in F32 on one thread,
token for token. The exit status is 1 where something was found.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from robustness.answers import write_stocks_answers
from robustness.children import Outcome, run
from robustness.setup import Setup, hybrid_file, verifiers
from robustness.tally import lines, zeros

from dflash_local import ModelError
from dflash_local.files import demo_pair
from dflash_local.files.gguf_header import GGUFHeader

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from random_hybrid import write_lfm2


def main(options: argparse.Namespace) -> int:
    """Returns the exit status."""
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        write_lfm2(hybrid_file(folder), GGUFHeader(verifiers(folder)["tiny"]))
        write_stocks_answers(folder)
        demo = _demo() if options.demo > 0 else ()
        ends = time.monotonic() + 60 * options.minutes
        while not outcomes or (time.monotonic() < ends and len(outcomes) != options.children):
            seconds = max(1.0, min(options.seconds, ends - time.monotonic() - options.warm_up))
            outcome = run(_setup(options, len(outcomes), seconds, folder, demo))
            outcomes.append(outcome)
            _print_findings(outcome)
    print("\n".join(lines(outcomes)))
    return int(any(zeros(outcomes).values()))


def _setup(
    options: argparse.Namespace, child: int, seconds: float, folder: str, demo: tuple[str, ...]
) -> Setup:
    has_demo = int((child + 1) * options.demo) > int(child * options.demo)
    return Setup(
        seed=options.seed + child,
        seconds=seconds,
        warm_up=options.warm_up,
        threads=options.threads,
        folder=folder,
        demo=demo if has_demo else (),
        interrupts=not options.no_interrupts,
    )


def _demo() -> tuple[str, ...]:
    try:
        return str(demo_pair.verifier()), str(demo_pair.drafter())
    except ModelError as error:
        print(f"without the demo pair: {error}", file=sys.stderr)
        return ()


def _print_findings(outcome: Outcome) -> None:
    n = sum(n for name, n in outcome.counts.items() if not name.startswith(("error", "answers")))
    print(f"seed {outcome.seed}: {n} operations, {len(outcome.findings)} findings", flush=True)
    for kind, text in outcome.findings:
        print(f"  {kind}: {text}", flush=True)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the first child")
    parser.add_argument("--children", type=int, default=0, metavar="N", help="at most; 0: any")
    parser.add_argument("--seconds", type=float, default=25.0, metavar="N", help="a child works")
    parser.add_argument("--warm-up", type=float, default=3.0, metavar="N", help="seconds")
    parser.add_argument("--threads", type=int, default=4, metavar="N")
    parser.add_argument("--demo", type=float, default=0.25, metavar="N", help="share of children")
    parser.add_argument("--no-interrupts", action="store_true", help="no signals")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(_parse(sys.argv[1:])))

"""What a drafter learns from a user with a narrow workload, and what it costs.

    python benchmarks/learning.py --out DIR [--answers 50,200,500] [--minutes 20]

The user asks for small Python classes (drafters/workloads/python_classes.py), one after another, of
the demo's verifier with its general drafter, and everything is recorded. After so many answers
`dflash-local learn` runs once. Then questions that were never asked, and are not recorded, are
answered greedily with blocks of the drafter's full width: the acceptance length is of those.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from dflash_local import Llama
from dflash_local.cli.cores import physical_cores
from dflash_local.cli.numbers import non_negative, positive
from dflash_local.files import demo_pair
from dflash_local.files.drafter_file import read_drafter
from dflash_local.learn import LearnOptions, learn
from dflash_local.record.folder import LEARNED
from dflash_local.train import Progress

sys.path.append(str(Path(__file__).resolve().parents[1] / "drafters" / "workloads"))

from python_classes import prompts as python_classes

_FAR = 10_000  # no user here asks so many: questions from there on are new


@dataclass(frozen=True)
class Point:
    """Where the drafter stands after a number of answers.

    Attributes:
        acceptance_length: on questions that were never asked.
        minutes: of learning, for this point alone.
        in_place: the learning found a better drafter.
    """

    n_answers: int
    acceptance_length: float
    minutes: float
    in_place: bool


class User:
    """Someone with a verifier, a drafter and a folder in which answers are recorded."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self.folder: Path = arguments.out / "record"
        self.verifier: Path = arguments.verifier or demo_pair.verifier()
        self._general: Path = arguments.drafter or demo_pair.drafter()

    @property
    def drafter(self) -> Path:
        """The one in use."""
        learned = self.folder / LEARNED
        return learned if learned.is_file() else self._general

    def ask(self, questions: Iterable[str], *, record: Path | None, width: int | None) -> float:
        """The answers' acceptance length."""
        arguments = self._arguments
        with Llama(
            self.verifier,
            drafter=self.drafter,
            width=width,
            record=record,
            n_ctx=1024,
            n_threads=arguments.threads,
            n_threads_batch=arguments.threads,
        ) as llm:
            for question in questions:
                llm.create_chat_completion(
                    [{"role": "user", "content": question}],
                    temperature=0.0,
                    max_tokens=arguments.max_tokens,
                )
            return float(llm.stats.total.acceptance_length)

    def point(self, n_answers: int, minutes: float, in_place: bool) -> Point:
        """Asks what was never asked."""
        questions = islice(python_classes(), _FAR, _FAR + self._arguments.questions)
        width = read_drafter(self.drafter).max_width
        return Point(n_answers, self.ask(questions, record=None, width=width), minutes, in_place)

    def learn(self, n_answers: int) -> Point:
        """Learns from what is recorded."""
        arguments = self._arguments
        outcome = learn(
            LearnOptions(
                self.folder,
                to=self.folder / LEARNED,
                minutes=arguments.minutes,
                most_steps=arguments.most_steps,
                threads=arguments.threads,
            ),
            _Told(),
        )
        return self.point(n_answers, outcome.minutes, outcome.in_place)


class _Told(Progress):
    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def main(arguments: argparse.Namespace) -> int:
    """Returns the exit status."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    user = User(arguments)
    points = [user.point(0, 0.0, False)]
    show(points[0])
    for before, after in zip([0, *arguments.answers], arguments.answers, strict=False):
        user.ask(islice(python_classes(), before, after), record=user.folder, width=None)
        points.append(user.learn(after))
        show(points[-1])
    rows = [json.dumps(vars(point)) + "\n" for point in points]
    (arguments.out / "points.jsonl").write_text("".join(rows), encoding="utf-8")
    return 0


def show(point: Point) -> None:
    """A line of the table."""
    if point.n_answers == 0:
        print("| answers | acceptance length | minutes of learning | better |")
        print("| ---: | ---: | ---: | --- |")
    better = "yes" if point.in_place else "no"
    length = f"{point.acceptance_length:.2f}"
    print(f"| {point.n_answers} | {length} | {point.minutes:.1f} | {better} |", flush=True)


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="new: the record, and points.jsonl")
    add("--answers", type=_numbers, default=(50, 200, 500), metavar="N,N,...")
    add("--minutes", type=non_negative, default=20.0, metavar="N", help="of each learning")
    add("--most-steps", type=positive, default=4000, metavar="N", help="of each learning")
    add("--questions", type=positive, default=64, metavar="N", help="that are never recorded")
    add("--max-tokens", type=positive, default=160, metavar="N", help="of an answer")
    add("--verifier", type=Path, metavar="V.gguf", help="default: the demo's")
    add("--drafter", type=Path, metavar="D.gguf", help="default: the demo's")
    add("--threads", type=positive, default=physical_cores(), metavar="N")
    return parser.parse_args(argv)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(sorted(positive(part) for part in text.split(",")))


if __name__ == "__main__":
    sys.exit(main(parse(sys.argv[1:])))

"""What a token costs at the calls that people make, by its place in a long answer.

    python benchmarks/long_answers.py [--verifier V.gguf --drafter D.gguf] [--prompts 2]

Each prompt is answered by stock ``llama_cpp.Llama``, by ours without a drafter and by ours with
one, through ``create_completion`` and ``create_chat_completion``, streamed. The answers are written
side by side, a few tokens of each in turn, so that what slows the machine down slows down all of
them. They go on past their end, or they would be too short: sampled, since greedy ones repeat
themselves. "Around" is what this thread's CPU does between two tokens, outside of ``generate``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any
from unittest import mock

import llama_cpp
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from dflash_local import Llama
from dflash_local.bench.places import PLACES, Place
from dflash_local.cli.cores import physical_cores
from dflash_local.cli.numbers import non_negative, positive
from dflash_local.files import demo_pair

STORIES = (
    "Once upon a time there was a small village by the sea. One morning, the fishermen saw",
    "Write a long story about a girl who finds an old map in the attic of her grandmother.",
    "The history of the bicycle begins in the early nineteenth century, when",
    "Explain to a child, step by step, how bread is made, from the field to the oven.",
)
STOCK, PLAIN, DRAFTING = "stock", "ours, plain", "ours, drafting"
CALLS = ("completion", "chat")
_IN_TURN = 25  # tokens of one answer before the next one's
_WINDOW = 200


@dataclass
class Timed:
    """Seconds of each token of an answer: on the clock, of all CPUs, of this thread's around it."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    around: list[float] = field(default_factory=list)


class Engine:
    """A model whose ``generate`` counts tokens, and its own share of the CPU time."""

    def __init__(self, llm: llama_cpp.Llama) -> None:
        self._llm = llm
        self._generate = llm.generate
        self._n_tokens = 0
        self._inside = 0.0
        llm.generate = self._counted
        llm.chat_handler = _endless_chat(llm)

    def _counted(self, *args: Any, **kwargs: Any) -> Iterator[int]:
        with closing(self._generate(*args, **kwargs)) as tokens:
            while True:
                start = time.thread_time()
                token = next(tokens)
                self._inside += time.thread_time() - start
                self._n_tokens += 1
                yield token

    def answer(self, call: str, text: str, n_tokens: int, temperature: float) -> Iterator[Timed]:
        """Writes an answer; gives what is known of it after every few tokens."""
        self._llm.reset()
        options = {"max_tokens": n_tokens, "temperature": temperature, "seed": 1, "stream": True}
        if call == "chat":
            chunks = self._llm.create_chat_completion(
                [{"role": "user", "content": text}], **options
            )
        else:
            chunks = self._llm.create_completion(text, **options)
        timed = Timed()
        for n_written in self._timed(chunks, timed):
            if n_written % _IN_TURN == 0:
                yield timed
        yield timed

    def _timed(self, chunks: Iterator[Any], timed: Timed) -> Iterator[int]:
        end = object()
        while True:
            n_before, inside = self._n_tokens, self._inside
            start = time.perf_counter(), time.process_time(), time.thread_time()
            chunk = next(chunks, end)
            wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
            around = time.thread_time() - start[2] - (self._inside - inside)
            n_new = self._n_tokens - n_before
            for _ in range(n_new):  # a chunk may hold several tokens: parts of one character
                timed.wall.append(wall / n_new)
                timed.cpu.append(cpu / n_new)
                timed.around.append(around / n_new)
            if chunk is end:
                return
            if n_new:
                yield len(timed.wall)


def _endless_chat(llm: llama_cpp.Llama) -> Any:
    """The model's own template, without the token that would end an answer."""
    return Jinja2ChatFormatter(
        template=llm.metadata["tokenizer.chat_template"],
        eos_token="<no end>",
        bos_token="",
        stop_token_ids=[llm.n_vocab()],
    ).to_chat_handler()


def _never(*_: object) -> bool:
    return False


def side_by_side(
    engines: dict[str, Engine], call: str, text: str, options: argparse.Namespace
) -> dict[str, Timed]:
    """The same answer by each engine, a few tokens of each in turn."""
    answers = {
        name: engine.answer(call, text, options.max_tokens, options.temperature)
        for name, engine in engines.items()
    }
    found: dict[str, Timed] = {}
    while answers:
        for name, answer in list(answers.items()):
            timed = next(answer, None)
            if timed is None:
                del answers[name]
            else:
                found[name] = timed
    return found


def main(options: argparse.Namespace) -> int:
    """Returns the exit status."""
    verifier = options.verifier or demo_pair.verifier()
    drafter = options.drafter or demo_pair.drafter()
    n_threads = options.threads
    settings = {
        "n_ctx": options.max_tokens + 128,
        "n_threads": n_threads,
        "n_threads_batch": n_threads,
        "verbose": False,
    }
    with ExitStack() as stack:
        models = {
            STOCK: llama_cpp.Llama(str(verifier), **settings),
            PLAIN: Llama(verifier, **settings),
            DRAFTING: Llama(verifier, drafter=drafter, **settings),
        }
        for llm in models.values():
            stack.callback(llm.close)
        stack.enter_context(mock.patch.object(llama_cpp.llama_cpp, "llama_vocab_is_eog", _never))
        engines = {name: Engine(llm) for name, llm in models.items()}
        for call in options.calls:
            texts = STORIES[: options.prompts]
            _show(call, [side_by_side(engines, call, text, options) for text in texts])
    return 0


def _show(call: str, answers: list[dict[str, Timed]]) -> None:
    length = min(len(timed.wall) for found in answers for timed in found.values())
    places = [p for p in (*PLACES, Place(0, length)) if p.end <= length]
    print(f"\n{call}, {len(answers)} answers of {length} tokens; ms a token (CPU; around it)\n")
    print(f"| | {' | '.join(str(place) for place in places)} |\n|---|{'---:|' * len(places)}")
    for name in answers[0]:
        cells = (_cell([found[name] for found in answers], place) for place in places)
        print(f"| {name} | {' | '.join(cells)} |")
    for name, base in ((PLAIN, STOCK), (DRAFTING, STOCK), (DRAFTING, PLAIN)):
        ratios = (_ratios(answers, name, base, place) for place in places)
        cells = (f"{wall:.2f}x ({cpu:.2f}x)" for wall, cpu in ratios)
        print(f"| {name} over {base} | {' | '.join(cells)} |")
    windows = [Place(at, at + _WINDOW) for at in range(0, length - _WINDOW + 1, _WINDOW)]
    if windows:
        least = min((_ratios(answers, DRAFTING, PLAIN, place)[0], str(place)) for place in windows)
        print(f"\nleast window, {DRAFTING} over {PLAIN}: {least[0]:.2f}x ({least[1]})", flush=True)


def _cell(own: list[Timed], place: Place) -> str:
    parts = (
        median(_a_token(seconds, place) for seconds in each)
        for each in ([t.wall for t in own], [t.cpu for t in own], [t.around for t in own])
    )
    wall, cpu, around = (1e3 * part for part in parts)
    return f"{wall:.1f} ({cpu:.1f}; {around:.2f})"


def _a_token(seconds: list[float], place: Place) -> float:
    """The median of short stretches: a pause of the machine is in few of them."""
    starts = range(place.first, place.end - _IN_TURN + 1, _IN_TURN)
    return median(fmean(seconds[start : start + _IN_TURN]) for start in starts)


def _ratios(
    answers: list[dict[str, Timed]], name: str, base: str, place: Place
) -> tuple[float, float]:
    """Speed-up on the clock, and in CPU time."""
    pairs = [(found[base], found[name]) for found in answers]
    wall = median(_a_token(a.wall, place) / _a_token(b.wall, place) for a, b in pairs)
    return wall, median(_a_token(a.cpu, place) / _a_token(b.cpu, place) for a, b in pairs)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--verifier", type=Path, metavar="V.gguf", help="default: the demo pair")
    parser.add_argument("--drafter", type=Path, metavar="D.gguf")
    parser.add_argument("--prompts", type=positive, default=2, metavar="N", help="of 4")
    parser.add_argument("--calls", nargs="+", choices=CALLS, default=CALLS)
    parser.add_argument("--max-tokens", type=positive, default=1500, metavar="N")
    parser.add_argument("--temperature", type=non_negative, default=0.8, metavar="T")
    parser.add_argument("--threads", type=positive, default=physical_cores(), metavar="N")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(_parse(sys.argv[1:])))

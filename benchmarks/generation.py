"""How much of bare batched decoding the generation of training data keeps.

    python benchmarks/generation.py [--verifier V.gguf] [--at-once 64] [--threads N]

Bare: llama_decode alone, one token of each sequence a decode, nothing sampled. Generation: what
`dflash-local train` does with as many answers at once, sampling, prompts and the emptier end of a
group included. The two take turns; medians.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median

import llama_cpp
from rich.console import Console
from rich.table import Table

from dflash_local.bench.suite import SUITES, load_prompts
from dflash_local.cli.cores import physical_cores
from dflash_local.cli.numbers import positive
from dflash_local.files import demo_pair
from dflash_local.llama_log import captured_log
from dflash_local.train.answerer import Answerer, Question, Sampling
from dflash_local.train.capture import context_params, load_model
from dflash_local.train.verifiers.gguf_template import Template

_MAX_TOKENS = 96
_ANSWERS_A_SLOT = 3


class Bare:
    """A context of as many sequences, decoding one token of each."""

    def __init__(self, verifier: Path, n: int, n_ctx: int, n_threads: int) -> None:
        with captured_log():
            self._model = load_model(verifier, 0)
            params = context_params(n_threads)
            params.n_seq_max, params.n_ctx = n, n * n_ctx
            params.n_batch = params.n_ubatch = max(512, n)
            params.n_outputs_max = n
            self._context = llama_cpp.llama_init_from_model(self._model, params)
        self._n = n

    def tokens_per_second(self, n_past: int, n_steps: int) -> float:
        """At positions ``n_past`` and on."""
        memory = llama_cpp.llama_get_memory(self._context)
        llama_cpp.llama_memory_clear(memory, True)
        for step in range(n_past):
            self._decode(step)
        start = time.perf_counter()
        for step in range(n_past, n_past + n_steps):
            self._decode(step)
        return self._n * n_steps / (time.perf_counter() - start)

    def _decode(self, position: int) -> None:
        batch = llama_cpp.llama_batch_init(self._n, 0, 1)
        batch.n_tokens = self._n
        for i in range(self._n):
            batch.token[i], batch.pos[i] = 100 + i, position
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, i
            batch.logits[i] = 1
        with captured_log():
            code = llama_cpp.llama_decode(self._context, batch)
            llama_cpp.llama_get_logits_ith(self._context, 0)
        llama_cpp.llama_batch_free(batch)
        if code:
            raise RuntimeError(f"llama_decode gave {code}")


def main(arguments: argparse.Namespace) -> int:
    """Returns the exit status."""
    verifier = arguments.verifier or demo_pair.verifier()
    template = Template(verifier)
    prompts = [template.prompt(list(p.messages)) for p in load_prompts(SUITES["default"])]
    prompts = sorted(prompts, key=len)[: len(prompts) // 2]
    n_ctx = len(prompts[-1]) + _MAX_TOKENS
    n = arguments.at_once
    questions = [
        Question(prompts[i % len(prompts)], Sampling(0.8 * (i % 2), seed=i), _MAX_TOKENS)
        for i in range(_ANSWERS_A_SLOT * n)
    ]
    bare = Bare(verifier, n, n_ctx, arguments.threads)
    ratios, rows = [], []
    with Answerer(verifier, n_slots=n, n_ctx=n_ctx, n_threads=arguments.threads) as answerer:
        for _ in range(arguments.rounds):
            plain = bare.tokens_per_second(n_past=8, n_steps=24)
            start = time.perf_counter()
            written = sum(map(len, answerer.answer(questions)))
            ours = written / (time.perf_counter() - start)
            rows.append((plain, ours))
            ratios.append(ours / plain)
    _show(rows, ratios, n)
    return 0


def _show(rows: list[tuple[float, float]], ratios: list[float], n: int) -> None:
    table = Table(title=f"{n} at once, tokens a second")
    for name in ("bare decoding", "generation", "share"):
        table.add_column(name, justify="right")
    for (plain, ours), ratio in zip(rows, ratios, strict=True):
        table.add_row(f"{plain:.0f}", f"{ours:.0f}", f"{ratio:.0%}")
    console = Console()
    console.print(table)
    console.print(f"median share: {median(ratios):.0%}", highlight=False)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--verifier", type=Path, metavar="V.gguf", help="default: the demo's")
    parser.add_argument("--at-once", type=positive, default=64, metavar="N")
    parser.add_argument("--threads", type=positive, default=physical_cores(), metavar="N")
    parser.add_argument("--rounds", type=positive, default=3, metavar="N")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(_parse(sys.argv[1:])))

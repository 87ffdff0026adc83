"""What flash attention costs or wins: ms of a decode by rows and length of the context.

    python benchmarks/attention.py [--verifier V.gguf [V.gguf ...]] [--contexts 256 2048 8192]

Contexts with and without it lie in one process and decode in turn. Each decodes made up tokens at
the end of a context of the length shown, and the table has medians. Before them stands the speed at
which that context was read, in tokens a second. ``--kv bf16 q8_0`` adds flash attention over other
K/V caches.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median
from typing import Any

import llama_cpp
import numpy as np

from dflash_local.cli.cores import physical_cores
from dflash_local.cli.numbers import positive
from dflash_local.files import demo_pair

KV = {
    "f16": llama_cpp.GGML_TYPE_F16,
    "bf16": 30,  # llama_cpp has no name for it
    "q8_0": llama_cpp.GGML_TYPE_Q8_0,
}
WITHOUT = "without"


class Timed:
    """A context that is filled once, and then decodes a few rows at its end, timed."""

    def __init__(self, llm: llama_cpp.Llama, text: Sequence[int]) -> None:
        self._llm = llm
        self._n_past = len(text)
        start = time.perf_counter()
        llm.eval(text)
        self.tokens_a_second = len(text) / (time.perf_counter() - start)
        self._seconds: dict[int, list[float]] = {}

    def look(self, tokens: Sequence[int]) -> None:
        """Decodes twice and keeps the second time: the first decode builds a graph."""
        for _ in range(2):
            self._llm.n_tokens = self._n_past
            start = time.perf_counter()
            self._llm.eval(tokens)
            seconds = time.perf_counter() - start
        self._seconds.setdefault(len(tokens), []).append(seconds)

    def milliseconds(self, rows: int) -> float:
        """The median time of a decode of so many rows."""
        return 1e3 * median(self._seconds[rows])


def compare(verifier: Path, n_past: int, arguments: argparse.Namespace) -> dict[str, Timed]:
    """The timed contexts, by ``WITHOUT`` or the K/V cache that flash attention works on."""
    rows = range(1, arguments.rows + 1)
    threads = {"n_threads": arguments.threads, "n_threads_batch": arguments.threads}
    options: dict[str, dict[str, Any]] = {WITHOUT: {}}
    for kv in arguments.kv:
        options[kv] = {"flash_attn": True, "type_k": KV[kv], "type_v": KV[kv]}
    with ExitStack() as stack:
        found = {}
        for name, own in options.items():
            llm = llama_cpp.Llama(
                str(verifier), n_ctx=n_past + len(rows), verbose=False, **threads, **own
            )
            stack.enter_context(closing(llm))
            text = np.random.default_rng(1).integers(0, llm.n_vocab(), n_past + len(rows)).tolist()
            found[name] = Timed(llm, text[:n_past])
        for _ in range(arguments.looks):
            for n in rows:
                for timed in found.values():
                    timed.look(text[n_past : n_past + n])
    return found


def main(arguments: argparse.Namespace) -> int:
    """Returns the exit status."""
    for verifier in arguments.verifier or [demo_pair.verifier()]:
        print(f"\n{verifier.name}, {arguments.threads} thread(s), ms a decode\n")
        rows = range(1, arguments.rows + 1)
        head = ["context", "flash attention", "read, tokens/s", *map(str, rows)]
        print(f"| {' | '.join(head)} |\n|---:|---|{'---:|' * (len(rows) + 1)}", flush=True)
        for n_past in arguments.contexts:
            for name, timed in compare(verifier, n_past, arguments).items():
                label = name if name == WITHOUT else f"with, {name.upper()} K/V"
                cells = [str(n_past), label, f"{timed.tokens_a_second:.0f}"]
                cells += [f"{timed.milliseconds(n):.1f}" for n in rows]
                print(f"| {' | '.join(cells)} |", flush=True)
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--verifier", type=Path, nargs="+", metavar="V.gguf", help="default: the demo's")
    add("--contexts", type=positive, nargs="+", default=[256, 2048, 8192], metavar="N")
    add("--rows", type=positive, default=8, metavar="N", help="at most")
    add("--looks", type=positive, default=9, metavar="N", help="at each number of rows")
    add("--kv", nargs="+", choices=KV, default=["f16"], help="K/V caches with flash attention")
    add("--threads", type=positive, default=physical_cores(), metavar="N")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(_parse(sys.argv[1:])))

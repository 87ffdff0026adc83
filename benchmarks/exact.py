"""Largest difference of a logit between rows decoded together and one by one, by weights and rows.

    python benchmarks/exact.py [--verifier V.gguf [V.gguf ...]] [--threads 1 2] [--depths 0 300]

Each verifier is written in every type of weights by libllama's own quantiser. It decodes 48 made up
tokens after as many others as ``--depths`` says, first one by one, then in blocks. 0 means equal to
the bit. All decoding is stock ``llama_cpp``'s, so the differences are not this package's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from dflash_local.cli.numbers import natural, positive
from dflash_local.files import demo_pair
from dflash_local.files.requantize import requantize

Floats = npt.NDArray[np.float32]

TYPES = {
    "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q4_1": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_1,
    "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q4_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "Q5_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_K_M,
    "Q6_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q6_K,
    "F16": llama_cpp.LLAMA_FTYPE_MOSTLY_F16,
    "BF16": llama_cpp.LLAMA_FTYPE_MOSTLY_BF16,
    "F32": llama_cpp.LLAMA_FTYPE_ALL_F32,
}
KV = {
    "f16": llama_cpp.GGML_TYPE_F16,
    "bf16": 30,  # llama_cpp has no name for it
    "q8_0": llama_cpp.GGML_TYPE_Q8_0,
}
TINY = Path(__file__).parent.parent / "tests" / "models" / "verifier-f32.gguf"
N_TOKENS = 48


def decoded(llm: Any, tokens: Sequence[int], depth: int, rows: int) -> Floats:
    """The logits [n, n_vocab] of tokens after ``depth`` others, decoded ``rows`` at a time."""
    llm.n_tokens = depth
    for start in range(0, len(tokens), rows):
        llm.eval(tokens[start : start + rows])
    logits: Floats = llm.scores[depth : depth + len(tokens)].copy()
    return logits


def differences(
    model: Path, rows: Sequence[int], depths: Sequence[int], **options: Any
) -> Iterator[tuple[int, list[float]]]:
    """Yields each depth with the largest difference of a logit for each number of rows."""
    n_ctx = max(depths) + N_TOKENS
    llm = llama_cpp.Llama(str(model), n_ctx=n_ctx, logits_all=True, verbose=False, **options)
    with closing(llm):
        text = np.random.default_rng(1).integers(0, llm.n_vocab(), n_ctx).tolist()
        for depth in depths:
            llm.reset()
            llm.eval(text[:depth])
            tokens = text[depth : depth + N_TOKENS]
            alone = decoded(llm, tokens, depth, 1)
            together = (decoded(llm, tokens, depth, n) for n in rows)
            yield depth, [float(np.abs(logits - alone).max()) for logits in together]


def main(arguments: argparse.Namespace) -> int:
    """Returns the exit status."""
    for verifier in arguments.verifier or [demo_pair.verifier(), TINY]:
        print(f"\n{verifier.name}, {arguments.kv.upper()} K/V, rows at once:\n")
        head = ["weights", "flash attention", "threads", "after", *map(str, arguments.rows)]
        print(f"| {' | '.join(head)} |\n|{'---|' * 4}{'---:|' * len(arguments.rows)}", flush=True)
        for name in arguments.types:
            with tempfile.TemporaryDirectory() as folder:
                model = Path(folder) / f"{name}.gguf"
                requantize(verifier, model, TYPES[name])
                _show(name, model, arguments)
    return 0


def _show(name: str, model: Path, arguments: argparse.Namespace) -> None:
    kv = KV[arguments.kv]
    for flash in (False, True):
        if not flash and arguments.kv == "q8_0":
            continue  # libllama quantises V with flash attention only
        for threads in arguments.threads:
            options = {"n_threads": threads, "n_threads_batch": threads, "flash_attn": flash}
            found = differences(
                model, arguments.rows, arguments.depths, type_k=kv, type_v=kv, **options
            )
            for depth, largest in found:
                cells = [name, "on" if flash else "off", str(threads), str(depth)]
                cells += [f"{value:.2g}" for value in largest]
                print(f"| {' | '.join(cells)} |", flush=True)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--verifier", type=Path, nargs="+", metavar="V.gguf", help="default: the demo's, a tiny")
    add("--types", nargs="+", choices=TYPES, default=list(TYPES), metavar="T", help="of weights")
    add("--rows", type=positive, nargs="+", default=[2, 3, 4, 5, 6, 8, 16], metavar="N")
    add("--threads", type=positive, nargs="+", default=[1], metavar="N")
    add("--depths", type=natural, nargs="+", default=[0, 300], metavar="N", help="tokens before")
    add("--kv", choices=KV, default="f16", help="type of the K/V cache")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(_parse(sys.argv[1:])))

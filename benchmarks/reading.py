"""How fast a verifier reads texts for training: tokens a second, one text at a time.

    python benchmarks/reading.py --tokens FILE.jsonl [--verifier V.gguf [V.gguf ...]] [--threads N]

With the 8 best tokens of each position, and without them: the head is left out then.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median

from dflash_local.cli.cores import physical_cores
from dflash_local.cli.numbers import positive
from dflash_local.files import demo_pair
from dflash_local.files.layer_ids import layer_inputs
from dflash_local.train.capture import Capturer
from dflash_local.train.conversations import read_conversations
from dflash_local.train.readings import TOP_K
from dflash_local.train.shape import default_target_layers
from dflash_local.train.verifiers.verifier_file import VerifierFile


def main(arguments: argparse.Namespace) -> int:
    """Returns the exit status."""
    texts = read_conversations(arguments.tokens)[: arguments.most]
    n_ctx = max(len(text.tokens) for text in texts)
    n_tokens = sum(len(text.tokens) for text in texts)
    print("| verifier | with | without |\n|---|---:|---:|")
    for verifier in arguments.verifier or [demo_pair.verifier()]:
        ids = default_target_layers(VerifierFile(verifier).sizes.n_layer)
        layers = layer_inputs(ids)
        speeds: dict[int, list[float]] = {TOP_K: [], 0: []}
        with Capturer(verifier, layers, n_ctx=n_ctx, n_threads=arguments.threads) as capturer:
            capturer.read(texts[0].tokens, TOP_K)  # warms up
            for _ in range(arguments.rounds):
                for top_k, found in speeds.items():
                    start = time.perf_counter()
                    for text in texts:
                        capturer.read(text.tokens, top_k)
                    found.append(n_tokens / (time.perf_counter() - start))
        cells = (f"{median(found):.0f}" for found in speeds.values())
        print(f"| {verifier.name} | {' | '.join(cells)} |", flush=True)
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=Path, required=True, metavar="FILE.jsonl")
    parser.add_argument("--verifier", type=Path, nargs="+", metavar="V.gguf")
    parser.add_argument("--most", type=positive, default=40, metavar="N", help="texts")
    parser.add_argument("--rounds", type=positive, default=1, metavar="N")
    parser.add_argument("--threads", type=positive, default=physical_cores(), metavar="N")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(_parse(sys.argv[1:])))

"""``dflash-convert count``: how often each token is in a corpus, for ``--frequencies``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dflash_local.errors import DFlashError

from ..verifiers.tokenizer import Tokenizer
from ..verifiers.verifier import read_verifier
from ..vocabularies.corpus import count_tokens
from ..vocabularies.frequencies import Counts, write_frequencies
from .output import PROGRAM, print_table, progress_bar, run

SMALLEST = 2048  # draft vocabulary that is listed


def main(argv: list[str]) -> int:
    """Run the verb: 0, or 1 on an error."""
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} count",
        description="Count a verifier's tokens in text that is like its answers, and tell how much "
        "of it a smaller draft vocabulary would cover. The counts are for --frequencies.",
    )
    parser.add_argument(
        "corpus",
        metavar="CORPUS",
        type=Path,
        help='JSONL (.jsonl, each line with "messages", "tokens", "text" or "prompt") or plain '
        "text; may be gzipped (.gz)",
    )
    parser.add_argument("--verifier", metavar="V.gguf", required=True, help="its tokenizer counts")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True)
    arguments = parser.parse_args(argv)
    return run(lambda: _count(arguments))


def _count(arguments: argparse.Namespace) -> int:
    corpus, output = arguments.corpus, arguments.output
    if output.exists() and corpus.exists() and output.samefile(corpus):
        raise DFlashError(f"{output} is the corpus: choose another -o")
    verifier = read_verifier(arguments.verifier)
    with Tokenizer(verifier.path) as tokenizer, progress_bar("counting") as progress:
        counts = count_tokens(corpus, tokenizer, progress)
    write_frequencies(output, counts)
    print(f"{output}: {counts.sum()} tokens, {np.count_nonzero(counts)} different ones")
    print_table(_coverage(counts), ("draft vocabulary", "covers"))
    return 0


def _coverage(counts: Counts) -> Iterator[tuple[str, str]]:
    """Sizes, each twice the last, and the share of the corpus that their tokens are."""
    share = np.cumsum(np.sort(counts)[::-1]) / counts.sum()
    size = SMALLEST
    while size < len(counts):
        yield str(size), f"{share[size - 1]:.2%}"
        size *= 2

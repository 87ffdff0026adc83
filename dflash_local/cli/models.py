"""``dflash-local models``: what is on this machine, what fits what, and the pairs by name."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dflash_local.errors import DFlashError
from dflash_local.pairs.listing import Here, Listed, here
from dflash_local.pairs.registry import Pair, pairs, user_file


def main(argv: list[str]) -> int:
    """Run the subcommand; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="dflash-local models",
        description="List the verifiers and drafters in the cache folder, the Hugging Face cache "
        "and the folders named, which drafter fits which verifier, and the pairs that "
        "`dflash-local get` fetches. Nothing is downloaded or loaded.",
    )
    where = "folders whose GGUF files are listed too (default: the working folder)"
    parser.add_argument("folders", type=Path, nargs="*", metavar="FOLDER", help=where)
    folders: list[Path] = parser.parse_args(argv).folders or [Path()]
    try:
        _show(here(folders), [*pairs().values()])
    except (DFlashError, OSError) as error:
        print(f"dflash-local models: {error}", file=sys.stderr)
        return 1
    return 0


def _show(found: Here, known: Sequence[Pair]) -> None:
    print("Verifiers here:" if found.verifiers else "No verifier is here.")
    for verifier in found.verifiers:
        _show_verifier(verifier)
    print("\nDrafters here:")  # there is one at least, the package's own
    for drafter in found.drafters:
        kind = ", safetensors, converted on first use" if drafter.is_checkpoint else ""
        print(f"  {drafter} ({drafter.place}{kind})")
    print("\nPairs by name, which `dflash-local get NAME` fetches:")
    width = max(len(pair.name) for pair in known)
    for pair in known:
        thinking = f" (thinking {pair.thinking})" if pair.thinking else ""
        print(f"  {pair.name:<{width}}  {pair.verifier} + {pair.drafter}{thinking}")
    print(f"Pairs of your own: {user_file()} (docs/models.md)")


def _show_verifier(verifier: Listed) -> None:
    print(f"  {verifier.path}")
    for drafter in verifier.fitting:
        print(f"      fits: {drafter}")
    if not verifier.fitting:
        get = "".join(f": `dflash-local get {name}` fetches one" for name in verifier.pairs[:1])
        print(f"      no drafter here fits it{get}")

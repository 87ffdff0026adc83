"""``dflash-local get``: a pair, a verifier or a drafter from the Hugging Face hub."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dflash_local.convert.reading.model_card import model_card
from dflash_local.errors import DFlashError, ModelError
from dflash_local.pairs import fetching, names
from dflash_local.pairs.finding import Found, find_drafter
from dflash_local.pairs.places import is_drafter_file
from dflash_local.pairs.reference import Reference, as_reference
from dflash_local.pairs.registry import Pair, pairs


def main(argv: list[str]) -> int:
    """Run the subcommand; returns the exit status, 1 where a name cannot be had or does not fit."""
    parser = argparse.ArgumentParser(
        prog="dflash-local get",
        description="Fetch models from the Hugging Face hub into its cache, with progress on "
        "standard error; what was begun is gone on with. A drafter in safetensors is converted for "
        "its verifier.",
    )
    name = "a pair of `dflash-local models`, or owner/repo[:file-or-quant]"
    parser.add_argument("name", metavar="NAME", help=name)
    name = parser.parse_args(argv).name
    try:
        pair = pairs().get(name)
        return _get_pair(pair) if pair is not None else _get_files(name)
    except (DFlashError, OSError) as error:
        print(f"dflash-local get: {error}", file=sys.stderr)
        return 1


def _get_pair(pair: Pair) -> int:
    verifier = names.verifier_file(pair.verifier)
    print(f"verifier  {verifier}{_licence(verifier, pair.verifier_licence)}")
    source = as_reference(pair.drafter)
    fetched = pair.drafter if source is None else fetching.fetch_drafter(source)
    drafter = names.drafter_file(fetched, verifier)
    print(f"drafter   {drafter}{_licence(Path(fetched), pair.drafter_licence)}")
    if pair.thinking is not None:
        print(f"thinking  {pair.thinking}: answers of that kind are what the drafter has learned")
    found = find_drafter(verifier)
    if not isinstance(found, Found):
        print(f"dflash-local get: {found.reason}", file=sys.stderr)
        return 1
    print(f"talk      dflash-local chat --verifier {pair.name}")
    return 0


def _get_files(name: str) -> int:
    reference = as_reference(name)
    if reference is None:
        known = ", ".join(pairs())
        raise ModelError(f"{name!r}: expected owner/repo[:file-or-quant], or one of {known}")
    path = _fetched(reference)
    kind = "drafter " if path.is_dir() or is_drafter_file(path) else "verifier"
    print(f"{kind}  {path}{_licence(path, None)}")
    return 0


def _fetched(reference: Reference) -> Path:
    """A verifier's file, or what a repository has that holds drafters alone."""
    try:
        return fetching.fetch_verifier(reference)
    except ModelError:
        return fetching.fetch_drafter(reference)


def _licence(path: Path, known: str | None) -> str:
    """What the model card says, else what the registry does."""
    said = model_card(path if path.is_dir() else path.parent).get("license") or known
    return f" (licence: {said})" if said else " (licence: see the model card)"

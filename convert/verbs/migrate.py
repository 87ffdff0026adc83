"""``dflash-convert migrate``: a fork's drafter GGUF as upstream's."""

from __future__ import annotations

import argparse

from ..layouts.attention import ATTENTION
from ..migrating.migration import migrate
from .output import PROGRAM, megabytes, progress_bar, run, warn


def main(argv: list[str]) -> int:
    """Run the verb; 0, or 1 where the file cannot be migrated."""
    arguments = _parser().parse_args(argv)
    return run(lambda: _migrate(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} migrate",
        description="Write a drafter's GGUF of a llama.cpp fork (architecture dflash-draft and "
        "others) again as llama.cpp and dflash-local read it. Weights are copied as they are.",
    )
    parser.add_argument("old", metavar="OLD.gguf")
    parser.add_argument("-o", "--output", metavar="NEW.gguf", required=True)
    parser.add_argument(
        "--verifier", metavar="V.gguf", help="its GGUF, for the tokenizer and rope sections"
    )
    parser.add_argument(
        "--mask-token",
        metavar="ID",
        type=int,
        help="mask_token_id of the original config.json, where OLD.gguf does not say it",
    )
    parser.add_argument(
        "--target-layer-ids",
        metavar="1,8,15",
        type=_ids,
        help="target_layer_ids of the original config.json, where OLD.gguf leaves them open",
    )
    parser.add_argument(
        "--attention",
        choices=list(ATTENTION),
        help="inside a block, where the fork mixes both",
    )
    return parser


def _ids(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected numbers as 1,8,15") from None


def _migrate(arguments: argparse.Namespace) -> int:
    with progress_bar() as progress:
        report = migrate(
            arguments.old,
            arguments.output,
            arguments.verifier,
            mask_token=arguments.mask_token,
            target_layer_ids=arguments.target_layer_ids,
            attention=arguments.attention,
            progress=progress,
        )
    warn(report.warnings)
    for change in report.changes:
        print(change)
    print(f"{report.output}: {report.n_tensors} tensors, {megabytes(report.n_bytes)}")
    return 0

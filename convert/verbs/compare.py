"""``dflash-convert compare``: what differs between two GGUF files."""

from __future__ import annotations

import argparse

from ..checking.comparison import Comparison, TensorDifference, compare
from .output import PROGRAM, print_json, print_table, run

MISSING = "-"


def main(argv: list[str]) -> int:
    """Run the verb: 0 same, 1 different, 2 on an error, as cmp and diff have it."""
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} compare",
        description="Keys and tensors that differ between two GGUF files, weights as numbers. "
        "Exit code 0 says same, 1 different, 2 trouble.",
    )
    parser.add_argument("a", metavar="A.gguf")
    parser.add_argument("b", metavar="B.gguf")
    parser.add_argument("--json", action="store_true", help="for scripts")
    arguments = parser.parse_args(argv)
    return run(lambda: _compare(arguments), trouble=2)


def _compare(arguments: argparse.Namespace) -> int:
    found = compare(arguments.a, arguments.b)
    if arguments.json:
        print_json(found, same=found.same)
    else:
        _print(found)
    return 0 if found.same else 1


def _print(found: Comparison) -> None:
    keys = [(key.name, _value(key.a), _value(key.b)) for key in found.keys]
    print_table(keys, ("key", "A", "B"))
    if found.keys and found.tensors:
        print()
    rows = [(t.name, t.a or MISSING, t.b or MISSING, *_errors(t)) for t in found.tensors]
    print_table(rows, ("tensor", "A", "B", "largest error", "relative"))
    if not found.same:
        print()
    print(
        f"{len(found.keys)} of {found.n_keys} keys and {len(found.tensors)} of {found.n_tensors} "
        "tensors differ"
    )


def _value(value: object) -> str:
    return MISSING if value is None else str(value)


def _errors(tensor: TensorDifference) -> tuple[str, str]:
    if tensor.max_abs is None or tensor.relative is None:
        return MISSING, MISSING
    return f"{tensor.max_abs:.3g}", f"{tensor.relative:.2e}"

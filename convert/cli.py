"""The command ``dflash-convert``: finds the verb and imports only that one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from dflash_local.machine.openmp import spin_briefly

# A source that is called like a verb is reached as ./show
VERBS = ("show", "check", "compare", "migrate", "count")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code.

    0 is success. 1 says that something failed, that a pair does not fit, or that files differ; 2
    is wrong usage, for ``compare`` also files that cannot be compared.
    """
    if argv is None:  # the program itself
        spin_briefly()
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb = arguments.pop(0) if arguments and arguments[0] in VERBS else "convert"
    return int(import_module(f".verbs.{verb}", __package__).main(arguments))

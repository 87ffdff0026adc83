"""The command ``dflash-local``, also as ``python -m dflash_local``."""

from __future__ import annotations

import contextlib
import sys
from typing import NoReturn

from dflash_local.cli.interrupts import INTERRUPTED, interrupts

from .machine.openmp import spin_briefly


def program() -> NoReturn:
    """Runs the command, then ends the process with its status, or with 130 after Ctrl-C."""
    try:
        interrupts.begin()  # before more is imported: that takes a while
        spin_briefly()

        from dflash_local.cli import main

        status = main()
        with contextlib.suppress(BrokenPipeError):  # whoever read our output has left
            sys.stdout.flush()
        interrupts.leave(status)
    except KeyboardInterrupt:
        interrupts.leave(INTERRUPTED)


if __name__ == "__main__":
    program()

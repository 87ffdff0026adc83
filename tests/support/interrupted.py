"""``dflash-local`` with a Ctrl-C at one moment of its life: a program for the tests of it.

`python interrupted.py MOMENT ARGUMENT ...`: the moment is the first call of a function, as in
"dflash_local.runtime.session_llama:eval", or the n-th call of any function, "*n"; "*0" never comes.
"""

from __future__ import annotations

import itertools
import signal
import sys
from types import FrameType

from dflash_local.__main__ import program


def interrupt_at(moment: str) -> None:
    """Raises the signal in this process, at that moment."""
    calls = itertools.count(1)

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event != "call":
            return
        name = f"{frame.f_globals.get('__name__')}:{frame.f_code.co_name}"
        if moment in (name, f"*{next(calls)}"):
            sys.setprofile(None)
            signal.raise_signal(signal.SIGINT)

    sys.setprofile(profile)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run may ignore it
    interrupt_at(sys.argv.pop(1))
    program()

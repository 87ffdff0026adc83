"""``dflash-local`` with a Ctrl-C at one moment of its life: a program for the tests of it.

`python interrupted.py MOMENT ARGUMENT ...`: the moment is a function's first call, as in
"dflash_local.llama:eval", or a number of calls of any function; at 0 they are only counted.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn


def interrupt_at(moment: str) -> Any:
    """The profiler that sends the signal, once; the count of calls in it."""
    calls, n_wanted = itertools.count(1), int(moment) if moment.isdigit() else -1

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event != "call":
            return
        name = f"{frame.f_globals.get('__name__')}:{frame.f_code.co_name}"
        if next(calls) == n_wanted or name == moment:
            sys.setprofile(None)
            signal.raise_signal(signal.SIGINT)

    return profile, calls


def main() -> NoReturn:
    moment, *arguments = sys.argv[1:]
    sys.argv[1:] = arguments
    profile, calls = interrupt_at(moment)
    real_exit = os._exit

    def count_and_exit(status: int) -> NoReturn:
        if moment == "0":
            sys.stderr.write(f"{next(calls)} calls\n")
            sys.stderr.flush()
        real_exit(status)

    os._exit = count_and_exit
    from dflash_local.__main__ import program

    sys.setprofile(profile)
    program()


if __name__ == "__main__":
    main()

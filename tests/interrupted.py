"""``dflash-local`` with a signal at one moment of its life: a program for the tests of it.

`python interrupted.py SIGNAL MOMENT ARGUMENT ...`: the moment is a call of a function, the third of
"dflash_local.llama:eval*3", or the n-th call of any function, "*n"; "*0" never comes.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from types import FrameType


def send_at(moment: str, number: signal.Signals) -> None:
    """Sends this process the signal, at that moment of this thread."""
    name, _, count = moment.partition("*")
    calls, wanted = itertools.count(1), int(count or 1)

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event != "call":
            return
        called = f"{frame.f_globals.get('__name__')}:{frame.f_code.co_name}"
        if name in ("", called) and next(calls) == wanted:
            sys.setprofile(None)
            os.kill(os.getpid(), number)

    sys.setprofile(profile)


def main() -> None:
    from dflash_local.__main__ import program

    number, moment = signal.Signals[sys.argv[1]], sys.argv[2]
    del sys.argv[1:3]
    send_at(moment, number)
    program()


if __name__ == "__main__":
    main()

"""How OpenMP's threads wait for each other: decided once a process, when libllama is loaded.

The threads of a decode meet after each operation, hundreds of times a token. Who comes first spins
there, with libgomp for milliseconds, before it sleeps. Where another program wants a processor too,
the thread that is waited for may be waiting for the very one that spins. See docs/busy.md.
"""

from __future__ import annotations

import os
import sys

#: Turns of libgomp's loop before a thread sleeps; docs/busy.md has what was measured.
SPINS = 1000

# What says how libgomp's threads wait: whoever set one of them has decided.
_DECIDED = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def spin_briefly() -> bool:
    """Has OpenMP's threads sleep soon when they wait, for machines on which others work too.

    For programs, first thing: libgomp reads the environment when ``llama_cpp`` loads it, once.
    Nothing is changed where ``llama_cpp`` is imported already, or where the environment says how
    threads wait. Child processes inherit it. It tells GNU's OpenMP only.

    Returns:
        Whether it was changed.
    """
    if "llama_cpp" in sys.modules or any(name in os.environ for name in _DECIDED):
        return False
    os.environ["GOMP_SPINCOUNT"] = str(SPINS)
    return True


def users_choice() -> str | None:
    """What of the environment says how threads wait, other than ``spin_briefly``; None: nothing."""
    for name in _DECIDED:
        if os.environ.get(name, str(SPINS)) != str(SPINS):
            return name
    return None

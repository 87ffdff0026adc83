"""Drafts with each of the files named, each in a process of its own, under a limit of memory.

    python fuzz_child.py VERIFIER FILE...

writes a line a file: the exit code (0 it drafted, 1 it was refused), negative for a signal.
"""

from __future__ import annotations

import os
import resource
import signal
import sys

from dflash_local import DFlashError, Llama

MAX_BYTES = 4 << 30  # of address space; a tiny pair takes a small part of it
MAX_SECONDS = 20
REFUSED, WRONG = 1, 3


def main(verifier: str, *files: str) -> None:
    os.environ["GGML_NO_BACKTRACE"] = "1"
    for file in files:
        sys.stdout.flush()  # a child would write it again
        child = os.fork()
        if child == 0:
            os._exit(_draft(verifier, file))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")


def _draft(verifier: str, file: str) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(MAX_SECONDS)
    try:
        llm = Llama(verifier, drafter=file, n_ctx=128, n_threads=1, n_threads_batch=1)
        tokens = llm.generate(llm.tokenize(b"the brown"), temp=0.0)
        for _ in range(8):
            next(tokens)
    except DFlashError:
        return REFUSED
    except BaseException as error:
        sys.stderr.write(f"{file}: {error!r}\n")
        return WRONG
    return 0


if __name__ == "__main__":
    main(*sys.argv[1:])

"""``dflash-local rpc-server``: offers this machine to models elsewhere, by llama.cpp's RPC."""

from __future__ import annotations

import argparse
import signal
import sys

from dflash_local.cli.cores import physical_cores
from dflash_local.cli.numbers import positive
from dflash_local.errors import DFlashError

#: llama.cpp's own.
DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 50052


def main(argv: list[str]) -> int:
    """Run the subcommand, until it is ended; returns the exit status."""
    arguments = _parser().parse_args(argv)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # libllama does not come back to Python
    try:
        from dflash_local.machine.rpc import serve

        serve(f"{arguments.host}:{arguments.port}", arguments.threads)
    except (DFlashError, ValueError) as error:
        print(f"dflash-local rpc-server: {error}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dflash-local rpc-server",
        description="Offer this machine's GPUs, or its processor where it has none, to Llama(rpc=) "
        "and --rpc on another machine. There is no protection: whoever reaches the port can use "
        "the process. It serves one process at a time, until Ctrl-C.",
    )
    add = parser.add_argument
    host = f"the address to listen on, 0.0.0.0 for all (default {DEFAULT_HOST})"
    add("--host", default=DEFAULT_HOST, metavar="ADDRESS", help=host)
    port = f"the port to listen on (default {DEFAULT_PORT})"
    add("--port", type=positive, default=DEFAULT_PORT, metavar="N", help=port)
    threads = "CPU threads (default: the physical cores)"
    add("--threads", type=positive, default=physical_cores(), metavar="N", help=threads)
    return parser

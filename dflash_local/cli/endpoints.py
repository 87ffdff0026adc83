"""RPC servers on the command line, for ``argparse``."""

from __future__ import annotations

import argparse

#: Of ``--rpc``.
RPC_HELP = "llama.cpp's RPC servers, whose devices get the verifier (see dflash-local rpc-server)"


def endpoints(text: str) -> tuple[str, ...]:
    """HOST:PORT, or several of them with commas between."""
    from dflash_local.machine.rpc import checked_endpoints

    try:
        return checked_endpoints(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error

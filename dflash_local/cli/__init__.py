"""The command ``dflash-local``: finds the subcommand and imports only that one."""

from __future__ import annotations

import sys
from importlib import import_module

# name: (module with main(argv) -> int, help line)
COMMANDS = {
    "chat": ("dflash_local.cli.chat", "talk to a model, drafting with DFlash"),
    "demo": ("dflash_local.cli.demo", "see it: plain and drafting, one above the other"),
    "bench": ("dflash_local.cli.bench", "measure a pair: acceptance, speed, latency, quality"),
    "train": ("dflash_local.cli.train", "train a drafter for your own model and prompts"),
    "learn": ("dflash_local.cli.learn", "make a drafter better by recorded answers (--record)"),
    "models": ("dflash_local.cli.models", "list verifiers and drafters here, and what fits what"),
    "get": ("dflash_local.cli.get", "fetch a verifier and its drafter from the Hugging Face hub"),
    "rpc-server": ("dflash_local.cli.rpc_server", "offer this machine to models on another"),
}


def main(argv: list[str] | None = None) -> int:
    """Run the subcommand named by the first argument; returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(_usage())
        return 0
    if name == "--version":
        from importlib.metadata import version  # it takes longer than all the rest

        print(f"dflash-local {version('dflash-local')}")
        return 0
    if name not in COMMANDS:
        print(f"dflash-local: unknown command {name!r}\n\n{_usage()}", file=sys.stderr)
        return 2
    status = import_module(COMMANDS[name][0]).main(arguments[1:])
    return int(status)


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {line}" for name, (_, line) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: dflash-local [--version] COMMAND [options]",
            "",
            "commands (dflash-local COMMAND --help says more):",
            *lines,
        ]
    )

"""The process of one engine: a setup, then requests, as lines of JSON.

``python -m peers.serve ENGINE`` reads a setup from standard input and tells that it is ready, or
why it cannot be; then it answers one request a line. A process of its own, since two builds of
libllama never share one, and since an assertion of a peer must not end the benchmark.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, TextIO

from .engine import Engine, UnavailableError

MODULES = {
    "llama": "peers.engine_llama",
    "xllamacpp": "peers.engine_xllamacpp",
    "torch": "peers.engine_torch",
}


def main(name: str) -> None:
    """Serve until standard input ends."""
    channel = _take_stdout()
    load: Callable[[dict[str, Any]], Engine] = import_module(MODULES[name]).load
    setup = json.loads(sys.stdin.readline())
    try:
        engine = load(setup)
        _send(channel, {"versions": engine.versions()})
        for line in sys.stdin:
            _send(channel, engine.answer(**json.loads(line)))
    except UnavailableError as error:
        _send(channel, {"error": str(error)})
    except Exception as error:  # told in one line: the parent decides what it means
        _send(channel, {"error": f"{type(error).__name__}: {error}"})
    # A server's threads would keep the interpreter from ending.
    os._exit(0)


def _take_stdout() -> TextIO:
    """The real standard output; what libraries print there goes to standard error from now on."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return channel


def _send(channel: TextIO, message: dict[str, Any]) -> None:
    channel.write(json.dumps(message) + "\n")
    channel.flush()


if __name__ == "__main__":
    main(sys.argv[1])

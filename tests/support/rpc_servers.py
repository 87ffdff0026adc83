"""RPC servers in child processes: devices that are not the CPU, in every test run."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE

CHILD = Path(__file__).with_name("rpc_child.py")

#: Where a pair lies: what ``Llama`` is told, given the endpoint of a server.
PLACEMENTS: dict[str, dict[str, Any]] = {
    "home": {},
    "verifier": {"n_gpu_layers": -1},
    "drafter": {"n_gpu_layers": 0, "drafter_devices": True},
    "both": {"n_gpu_layers": -1, "drafter_devices": True},
}
#: Drafters away from home, so that each of them is somewhere.
DRAFTERS_AWAY = (
    ("dflash-b8", "verifier"),
    ("dflash2-b8", "both"),
    ("dspark-b8", "drafter"),
    ("dflash-b8-d2t", "verifier"),
)


def placed(request: pytest.FixtureRequest, placement: str) -> dict[str, Any]:
    """Arguments of ``Llama`` for a placement; away from home a server is started."""
    if placement == "home":
        return {}
    endpoint = request.getfixturevalue("rpc_server")
    options = dict(PLACEMENTS[placement])
    if options.pop("drafter_devices", False):
        options["drafter_devices"] = [endpoint]
    return {"rpc": [endpoint], **options}


def free_port() -> int:
    """A port of the loopback device that nobody uses now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def server(port: int = 0) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server's endpoint and process, which ends with the block, or with this process.

    Args:
        port: where it listens; 0: where nobody does.
    """
    port = port or free_port()
    with subprocess.Popen(
        [sys.executable, CHILD, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as child:
        try:
            wait_for(port, child)
            yield f"127.0.0.1:{port}", child
        finally:
            child.kill()


def wait_for(port: int, child: subprocess.Popen[bytes]) -> None:
    """Returns when a child process listens on a port."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and child.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), PATIENCE).close()
            return
        time.sleep(0.02)
    raise RuntimeError(f"no RPC server began to listen on port {port}")

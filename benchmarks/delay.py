"""A network between two processes of one machine: passes on what comes, so much later.

    python benchmarks/delay.py HOST:PORT MILLISECONDS

Prints the port of 127.0.0.1 on which it stands for HOST:PORT, and ends with its standard input.
Each way takes the delay once, however much is on its way: the bandwidth is the loopback device's.
Threads sleep more exactly than asyncio, whose clock ticks in milliseconds.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import sys
import threading
import time

_CHUNK = 1 << 18
_MOST_CHUNKS = 1 << 10  # on their way at once

_Sent = tuple[float, bytes]


def delay(listener: socket.socket, target: tuple[str, int], seconds: float) -> None:
    """Takes on every connection, for ever."""
    while True:
        client, _ = listener.accept()
        server = socket.create_connection(target)
        for source, sink in ((client, server), (server, client)):
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            way: queue.Queue[_Sent] = queue.Queue(_MOST_CHUNKS)
            threading.Thread(target=_enter, args=(source, way, seconds), daemon=True).start()
            threading.Thread(target=_leave, args=(way, sink), daemon=True).start()


def _enter(source: socket.socket, way: queue.Queue[_Sent], seconds: float) -> None:
    chunk = b"first"
    while chunk:
        try:
            chunk = source.recv(_CHUNK)
        except OSError:
            chunk = b""
        way.put((time.perf_counter() + seconds, chunk))


def _leave(way: queue.Queue[_Sent], sink: socket.socket) -> None:
    """The end of one side arrives as late as all else."""
    with contextlib.suppress(OSError):
        while True:
            due, chunk = way.get()
            time.sleep(max(0.0, due - time.perf_counter()))
            if not chunk:
                sink.shutdown(socket.SHUT_WR)
                return
            sink.sendall(chunk)


def main(endpoint: str, milliseconds: str) -> None:
    host, port = endpoint.split(":")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        arguments = (listener, (host, int(port)), float(milliseconds) / 1e3)
        threading.Thread(target=delay, args=arguments, daemon=True).start()
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])

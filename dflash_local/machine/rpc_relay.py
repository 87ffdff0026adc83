"""A relay between a model and an RPC server, which asks for results before the model does.

ggml reads one tensor after another from a server, and waits for each. A step with a drafter reads
the logits and the inputs of several layers: as many journeys through the network, where plain
decoding makes one. The relay runs on the model's side. It knows what was read after a graph; when
that graph is computed again, it asks for all of it at once, and answers from what arrives. That is
dropped as soon as anything but a read follows, so the answers are always the server's own.

    model --loopback--> relay --network--> server

A message is a command (1 byte), a size (8 bytes) and a payload, an answer is a size and a payload.
Another version of the protocol than the one that is known here is passed on as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import struct
import sys
import threading
from collections import deque
from collections.abc import Iterator

_PROTOCOL = 7  # ggml-rpc.h: the major version of which these are the commands
_GET_TENSOR, _COMPUTE, _HELLO, _RECOMPUTE = 8, 10, 14, 16
_ANSWERED = frozenset((0, 1, 2, 3, 7, _GET_TENSOR, 9, 11, 13, _HELLO, 15))
_HEADER = struct.Struct("<BQ")
_SIZE = struct.Struct("<Q")
_CHUNK = 1 << 20
_MOST_GRAPHS = 256  # whose reads are remembered


class _Reads:
    """Which tensors are read after which graph."""

    def __init__(self) -> None:
        self._known: dict[bytes, list[bytes]] = {}
        self._last: dict[bytes, bytes] = {}  # by device: the graph that it would compute again
        self._seen: list[bytes] = []

    def after(self, command: int, payload: bytes) -> list[bytes]:
        """The requests to expect after this graph; those that come are told to ``add``."""
        device = payload[:4]
        if command == _COMPUTE:
            self._last[device] = hashlib.blake2b(payload, digest_size=16).digest()
        graph = self._last.get(device, device)
        expected = self._known.pop(graph, [])
        self._seen = []
        self._known[graph] = self._seen  # the newest last
        if len(self._known) > _MOST_GRAPHS:
            del self._known[next(iter(self._known))]
        return expected

    def add(self, request: bytes) -> None:
        """A tensor was read."""
        self._seen.append(request)

    def end(self) -> None:
        """What is read from here on does not belong to the last graph."""
        self._seen = []


class _Connection:
    """One client, and its connection with the server."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._client, self._server = client, server
        self._reads = _Reads()
        self._ahead: deque[bytes] = deque()  # requests whose answers are on their way

    def serve(self) -> None:
        """Until one of both leaves."""
        with contextlib.suppress(EOFError):
            while self._message():
                pass

    def _message(self) -> bool:
        """Takes one message on; False at the end."""
        command, size = _HEADER.unpack(_read(self._client, _HEADER.size))
        if command == _GET_TENSOR:
            self._get(_read(self._client, size))
            return True
        # The server reads nothing while nobody takes its answers.
        self._drop()
        self._server.sendall(_HEADER.pack(command, size))
        if command in (_COMPUTE, _RECOMPUTE):
            self._compute(command, _read(self._client, size))
            return True
        self._reads.end()
        _copy(self._client, self._server, size)
        return self._hello() if command == _HELLO else self._answer(command)

    def _get(self, request: bytes) -> None:
        self._reads.add(request)
        if self._ahead and self._ahead[0] == request:
            self._ahead.popleft()
        else:
            self._drop()
            self._ask(request)
        self._answer(_GET_TENSOR)

    def _compute(self, command: int, graph: bytes) -> None:
        self._server.sendall(graph)
        for request in self._reads.after(command, graph):
            self._ask(request)
            self._ahead.append(request)

    def _ask(self, request: bytes) -> None:
        self._server.sendall(_HEADER.pack(_GET_TENSOR, len(request)) + request)

    def _answer(self, command: int) -> bool:
        if command in _ANSWERED:
            size = _read(self._server, _SIZE.size)
            self._client.sendall(size)
            _copy(self._server, self._client, *_SIZE.unpack(size))
        return True

    def _hello(self) -> bool:
        size = _read(self._server, _SIZE.size)
        answer = _read(self._server, *_SIZE.unpack(size))
        self._client.sendall(size + answer)
        if answer[0] == _PROTOCOL:
            return True
        back = threading.Thread(target=_pass_on, args=(self._server, self._client), daemon=True)
        back.start()
        _pass_on(self._client, self._server)
        back.join()
        return False

    def _drop(self) -> None:
        while self._ahead:
            self._ahead.popleft()
            size = _read(self._server, _SIZE.size)
            for _ in _chunks(self._server, *_SIZE.unpack(size)):
                pass


def _read(source: socket.socket, size: int) -> bytes:
    return b"".join(_chunks(source, size))


def _copy(source: socket.socket, target: socket.socket, size: int) -> None:
    for chunk in _chunks(source, size):
        target.sendall(chunk)


def _chunks(source: socket.socket, size: int) -> Iterator[bytes]:
    """So many bytes, as they come.

    Raises:
        EOFError: the other side has left.
    """
    while size > 0:
        chunk = source.recv(min(size, _CHUNK))
        if not chunk:
            raise EOFError
        size -= len(chunk)
        yield chunk


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(_CHUNK):
            target.sendall(chunk)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def relay(listener: socket.socket, server: tuple[str, int]) -> None:
    """Takes on every connection, until the listener is closed."""
    with contextlib.suppress(OSError):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_connect, args=(client, server), daemon=True).start()


def _connect(client: socket.socket, server: tuple[str, int]) -> None:
    # One that finds no server ends as the server's own would.
    with client, contextlib.suppress(OSError), socket.create_connection(server) as there:
        for each in (client, there):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _Connection(client, there).serve()


def main(arguments: list[str]) -> None:
    """Prints the port that it listens on, and ends with its parent, whose pipe it reads."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is its parent's business
    host, port = arguments[0].split(":")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        threading.Thread(target=relay, args=(listener, (host, int(port))), daemon=True).start()
        sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])

"""The relay before an RPC server: asks ahead of the model, and never answers with what is old."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import psutil
import pytest
from conftest import MakeLlama, check_drafts
from exactness import greedy, tiny_prompts
from rpc_servers import server
from waiting import PATIENCE

from dflash_local import Llama
from dflash_local.machine import rpc, rpc_relay

ALLOC, SET, GET, COMPUTE, HELLO, RECOMPUTE = 0, 6, 8, 10, 14, 16
DEVICE = b"\0\0\0\0"


class Peer:
    """One end of a connection, as ggml speaks: in messages and answers."""

    def __init__(self, end: socket.socket) -> None:
        end.settimeout(PATIENCE)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.end = end

    def send(self, command: int, payload: bytes) -> None:
        self.end.sendall(struct.pack("<BQ", command, len(payload)) + payload)

    def answer(self, payload: bytes) -> None:
        self.end.sendall(struct.pack("<Q", len(payload)) + payload)

    def next_message(self) -> tuple[int, bytes]:
        command, size = struct.unpack("<BQ", rpc_relay._read(self.end, 9))
        return command, rpc_relay._read(self.end, size)

    def next_answer(self) -> bytes:
        return rpc_relay._read(self.end, *struct.unpack("<Q", rpc_relay._read(self.end, 8)))


Ends = tuple[Peer, Peer]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A model's end of the relay, and the server's."""
    with (
        socket.create_server(("127.0.0.1", 0)) as outside,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        outside.settimeout(PATIENCE)
        server.settimeout(PATIENCE)
        arguments = (outside, server.getsockname())
        threading.Thread(target=rpc_relay.relay, args=arguments, daemon=True).start()
        model = socket.create_connection(outside.getsockname())
        there, _ = server.accept()
        with model, there:
            yield Peer(model), Peer(there)


def compute(ends: Ends, graph: bytes, ahead: tuple[bytes, ...] = (), again: bool = False) -> None:
    """The model sends a graph; the server gets it, and requests that the model did not make."""
    model, server = ends
    message = (RECOMPUTE, DEVICE) if again else (COMPUTE, DEVICE + graph)
    model.send(*message)
    assert server.next_message() == message
    for request in ahead:
        assert server.next_message() == (GET, request)


def read(ends: Ends, tensor: bytes, value: bytes) -> None:
    """A read that nobody foresaw."""
    model, server = ends
    model.send(GET, tensor)
    assert server.next_message() == (GET, tensor)
    server.answer(value)
    assert model.next_answer() == value


@pytest.mark.parametrize("again", [False, True], ids=["graph", "same graph"])
def test_what_was_read_after_a_graph_is_asked_for_before_the_model_asks(
    ends: Ends, again: bool
) -> None:
    model, server = ends
    compute(ends, b"graph")
    for tensor in (b"logits", b"inputs"):
        read(ends, tensor, tensor.upper())
    model.send(SET, b"tokens")
    assert server.next_message() == (SET, b"tokens")
    for round_ in (b"1", b"2"):
        compute(ends, b"graph", ahead=(b"logits", b"inputs"), again=again)
        for tensor in (b"logits", b"inputs"):
            server.answer(tensor + round_)
            model.send(GET, tensor)
            assert model.next_answer() == tensor + round_


def test_each_graph_has_its_reads(ends: Ends) -> None:
    compute(ends, b"wide")
    read(ends, b"a", b"1")
    compute(ends, b"narrow")
    read(ends, b"b", b"2")
    read(ends, b"c", b"3")
    model, server = ends
    compute(ends, b"wide", ahead=(b"a",))
    server.answer(b"4")
    compute(ends, b"narrow", ahead=(b"b", b"c"))
    server.answer(b"5")
    model.send(GET, b"b")
    assert model.next_answer() == b"5"


def test_what_was_asked_ahead_is_dropped_when_something_was_written(ends: Ends) -> None:
    model, server = ends
    compute(ends, b"graph")
    read(ends, b"a", b"1")
    compute(ends, b"graph", ahead=(b"a",))
    server.answer(b"old")
    model.send(SET, b"a = new")
    assert server.next_message() == (SET, b"a = new")
    read(ends, b"a", b"new")


def test_another_tensor_than_expected_is_read_anew(ends: Ends) -> None:
    server = ends[1]
    compute(ends, b"graph")
    read(ends, b"a", b"1")
    read(ends, b"b", b"2")
    compute(ends, b"graph", ahead=(b"a", b"b"))
    server.answer(b"3")
    server.answer(b"4")
    read(ends, b"b", b"5")
    read(ends, b"a", b"6")
    compute(ends, b"graph", ahead=(b"b", b"a"))


def test_answers_of_any_size_and_none_pass(ends: Ends) -> None:
    model, server = ends
    large = os.urandom(5 << 20)
    model.send(ALLOC, b"size")
    assert server.next_message() == (ALLOC, b"size")
    server.answer(b"address")
    assert model.next_answer() == b"address"
    sender = threading.Thread(target=model.send, args=(SET, large), daemon=True)
    sender.start()
    assert server.next_message() == (SET, large)
    sender = threading.Thread(target=server.answer, args=(large,), daemon=True)
    sender.start()
    model.send(GET, b"a")
    assert server.next_message() == (GET, b"a")
    assert model.next_answer() == large


def test_few_graphs_are_remembered(ends: Ends) -> None:
    for number in range(rpc_relay._MOST_GRAPHS + 1):
        compute(ends, b"%d" % number)
        read(ends, b"a", b"1")
    model, server = ends
    compute(ends, b"2", ahead=(b"a",))
    server.answer(b"1")
    compute(ends, b"0")
    model.send(SET, b"tokens")
    assert server.next_message() == (SET, b"tokens")


def test_another_version_of_the_protocol_is_passed_on_as_it_is(ends: Ends) -> None:
    model, server = ends
    model.send(HELLO, b"")
    assert server.next_message() == (HELLO, b"")
    server.answer(bytes([rpc_relay._PROTOCOL + 1, 0, 0]))
    assert model.next_answer() == bytes([rpc_relay._PROTOCOL + 1, 0, 0])
    model.end.sendall(b"whatever it means")
    assert rpc_relay._read(server.end, 17) == b"whatever it means"
    server.end.sendall(b"and this")
    assert rpc_relay._read(model.end, 8) == b"and this"


@pytest.mark.parametrize("leaves", [0, 1], ids=["model", "server"])
def test_who_leaves_is_missed_on_the_other_side(ends: Ends, leaves: int) -> None:
    compute(ends, b"graph")
    ends[leaves].end.close()
    if leaves == 1:
        ends[0].send(GET, b"a")
    with pytest.raises((EOFError, ConnectionError)):
        ends[1 - leaves].next_message()


# ---- before a real server ------------------------------------------------------------------


@pytest.fixture
def endpoint(rpc_server: str) -> Iterator[str]:
    """Of a server of its own: it works for one connection at a time."""
    del rpc_server  # it skips where there is no RPC
    with server() as (endpoint, _):
        yield endpoint


def test_answers_through_a_relay_equal_plain_ones_while_widths_change(
    endpoint: str, make_llama: MakeLlama, tiny_verifier: Path, tiny_drafters: dict[str, Path]
) -> None:
    stock = make_llama(llama_cpp.Llama, tiny_verifier)
    drafter = tiny_drafters["dflash-b8"]
    with rpc.relayed(endpoint) as relays:
        llm = make_llama(Llama, tiny_verifier, drafter=drafter, rpc=relays)
        for n, prompt in enumerate(tiny_prompts(stock, 8, seed=5)):
            llm.width = (7, 3, 0, 5)[n % 4]
            assert greedy(llm, prompt, 40) == greedy(stock, prompt, 40)
            if llm.width > 0:
                check_drafts(llm)
        llm.close()


def test_the_examples_of_the_documentation_run(
    endpoint: str,
    tiny_verifier: Path,
    tiny_drafters: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "rpc.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        here = example.replace("192.168.1.7:50052", endpoint)
        here = here.replace("verifier.gguf", str(tiny_verifier))
        names: dict[str, Any] = {}
        exec(here.replace("drafter.gguf", str(tiny_drafters["dflash-b8"])), names)
        names["llm"].close()
    assert capsys.readouterr().out.strip()


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal there")
def test_relays_leave_ctrl_c_to_their_parent_and_end_with_the_block(endpoint: str) -> None:
    own = psutil.Process()
    before = set(own.children())
    with rpc.relayed([endpoint]) as (relayed,):
        (child,) = set(own.children()) - before
        child.send_signal(signal.SIGINT)
        assert rpc.devices_of(relayed)
    assert not child.is_running()

"""Servers on the command line: ``rpc-server``, and ``--rpc`` of ``chat`` and ``bench``."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from conftest import MODELS
from rpc_servers import free_port, server, wait_for
from waiting import PATIENCE

from dflash_local.bench.record import PLAIN
from dflash_local.bench.runner import BenchOptions, run_bench
from dflash_local.bench.suite import Prompt

PROGRAM = [sys.executable, "-m", "dflash_local"]
VERIFIER, DRAFTER = MODELS / "verifier-f32.gguf", MODELS / "dflash-b8.gguf"
PAIR = ["--verifier", str(VERIFIER), "--drafter", str(DRAFTER), "--threads", "1"]


@pytest.fixture
def endpoint(rpc_server: str) -> Iterator[str]:
    """Of a server of its own: it works for one process at a time."""
    del rpc_server  # it skips where there is no RPC
    with server() as (endpoint, _):
        yield endpoint


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def chat(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run(
        "chat", *PAIR, "--width", "7", "--max-tokens", "40", "-p", "Who is anna?", *arguments
    )


@pytest.mark.slow
def test_a_chat_answers_from_servers_as_at_home(endpoint: str) -> None:
    away, home = chat("--rpc", endpoint), chat()
    assert (away.returncode, away.stderr) == (0, home.stderr)
    assert away.stdout == home.stdout
    assert "anna" in away.stdout


def test_a_chat_without_its_server_gets_one_clear_line() -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    done = chat("--rpc", endpoint)
    assert done.returncode == 1
    assert done.stderr.startswith(f"dflash-local chat: rpc: no server answers at {endpoint}")
    assert done.stderr.count("\n") == 1
    done = chat("--rpc", "nowhere")
    assert done.returncode == 2
    assert "--rpc: rpc: 'nowhere' is no endpoint, expected HOST:PORT" in done.stderr


def test_bench_measures_stock_on_the_servers_too(endpoint: str) -> None:
    prompts = [Prompt("story", "prose", text="the grey cat")]
    options = BenchOptions(
        VERIFIER, DRAFTER, 1, widths=(7,), max_tokens=24, repeat=1, kv_f32=True, rpc=(endpoint,)
    )
    found = run_bench(options, prompts, lambda *_: None)
    plain, ours = found.answers
    assert (plain.mode, ours.mode) == (PLAIN, "7")
    assert plain.tokens == ours.tokens
    (device,) = found.memory.devices
    assert device.startswith("RPC")


@pytest.mark.usefixtures("rpc_server")
def test_the_server_program_serves_until_ctrl_c_and_refuses_a_port_in_use() -> None:
    port = str(free_port())
    command = [*PROGRAM, "rpc-server", "--port", port, "--threads", "1"]
    with contextlib.ExitStack() as stack:
        child = stack.enter_context(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        stack.callback(child.kill)
        wait_for(int(port), child)
        second = run("rpc-server", "--port", port)
        assert second.returncode == 1
        assert f"rpc-server: rpc: cannot listen at 127.0.0.1:{port}" in second.stderr
        assert chat("--rpc", f"127.0.0.1:{port}").returncode == 0
        if os.name == "posix":
            child.send_signal(signal.SIGINT)
            assert child.wait(PATIENCE) == -signal.SIGINT


def test_the_server_program_says_what_an_address_is() -> None:
    done = run("rpc-server", "--host", "::1")
    assert done.returncode == 1
    assert "is no endpoint, expected HOST:PORT with a name or an IPv4 address" in done.stderr

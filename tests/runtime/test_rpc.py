"""llama.cpp's RPC servers as devices: what is refused, where layers lie, and what a server's end
does."""

from __future__ import annotations

import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from conftest import F32, MakeLlama, check_drafts
from exactness import ONE_THREAD
from rpc_servers import free_port, server
from waiting import PATIENCE, wait_until

from dflash_local import BackendError, Cancelled, Llama
from dflash_local.llama_log import listening
from dflash_local.machine import rpc
from dflash_local.runtime import placement
from dflash_local.runtime.placement import Placement

PROMPT = "<|im_start|>user\nStart at 12 and add 7, 4 times.<|im_end|>\n<|im_start|>assistant\n"


def answer(llm: llama_cpp.Llama, n: int = 60) -> str:
    return str(llm(PROMPT, max_tokens=n, temperature=0)["choices"][0]["text"])


@pytest.fixture(scope="module")
def expected(make_module_llama: MakeLlama, tiny_verifier: Path) -> str:
    """Stock's answer at home."""
    return answer(make_module_llama(llama_cpp.Llama, tiny_verifier))


@pytest.fixture
def b8(tiny_drafters: dict[str, Path]) -> Path:
    return tiny_drafters["dflash-b8"]


def test_this_environment_has_rpc() -> None:
    if os.environ.get("DFLASH_TEST_RPC") == "0":
        pytest.skip("DFLASH_TEST_RPC=0: tests go without a device that is not the CPU")
    assert llama_cpp.llama_supports_rpc(), (
        "llama-cpp-python was built without -DGGML_RPC=ON, so nothing is tested on a device that "
        "is not the CPU: `python run.py test` installs one with it; DFLASH_TEST_RPC=0 goes without"
    )


# ---- what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "endpoint", ["", "host", "host:", ":50052", "host:port", "host:0", "host:65536", "[::1]:50052"]
)
def test_what_is_no_endpoint_is_refused(endpoint: str) -> None:
    for given in ([endpoint], f"127.0.0.1:50052,{endpoint}"):
        with pytest.raises(ValueError, match=r"is no endpoint, expected HOST:PORT"):
            Llama("no-such-file.gguf", rpc=given)


def test_endpoints_may_come_in_one_string_and_count_once() -> None:
    assert rpc.checked_endpoints("a:1,b:2,a:1") == rpc.checked_endpoints(["a:1", "b:2"])
    assert rpc.checked_endpoints(None) == ()


def test_a_build_without_rpc_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tiny_verifier: Path
) -> None:
    monkeypatch.setattr(llama_cpp, "llama_supports_rpc", lambda: False)
    with pytest.raises(BackendError, match=r"built without .*CMAKE_ARGS='-DGGML_RPC=ON'"):
        Llama(str(tiny_verifier), rpc="127.0.0.1:50052")


@pytest.mark.usefixtures("rpc_server")
@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_a_server_that_is_not_there_is_refused(host: str, tiny_verifier: Path) -> None:
    with pytest.raises(BackendError, match=f"no server answers at {host}:"):
        Llama(str(tiny_verifier), rpc=f"{host}:{free_port()}")
    with pytest.raises(BackendError, match=f"no server answers at {host}:"):  # noqa: SIM117
        with rpc.relayed(f"{host}:{free_port()}"):
            pass


@pytest.mark.usefixtures("rpc_server")
def test_what_is_no_rpc_server_is_refused(tiny_verifier: Path) -> None:
    """ggml would end the process."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_greet, args=(listener,), daemon=True).start()
        with pytest.raises(BackendError, match=r"cannot be used: .*crashed or returned malformed"):
            Llama(str(tiny_verifier), rpc=f"127.0.0.1:{listener.getsockname()[1]}")


def _greet(listener: socket.socket) -> None:
    for _ in range(2):  # once whether it is there, once what it is
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"220 mail.example.org ESMTP, how do you do?\r\n")


@pytest.mark.slow
@pytest.mark.usefixtures("rpc_server")
def test_a_server_that_works_for_another_process_is_refused(
    monkeypatch: pytest.MonkeyPatch, tiny_verifier: Path
) -> None:
    """ggml would wait for it, for ever."""
    with server() as (endpoint, _), socket.create_connection(rpc._split(endpoint)):
        monkeypatch.setattr(rpc, "PATIENCE", 2.0)
        # This connection shall count as another process's.
        monkeypatch.setattr(rpc, "_is_connected", lambda _: False)
        with pytest.raises(BackendError, match="may be working for another"):
            Llama(str(tiny_verifier), rpc=endpoint)


@pytest.mark.slow
@pytest.mark.usefixtures("rpc_server")
def test_a_server_that_works_for_another_thread_of_this_process_is_used(
    monkeypatch: pytest.MonkeyPatch, tiny_verifier: Path
) -> None:
    with server() as (endpoint, _), Llama(str(tiny_verifier), rpc=endpoint, **ONE_THREAD):
        monkeypatch.setattr(rpc, "PATIENCE", 2.0)
        looks = iter([False, True])  # when it is looked at first, the other model is not there yet
        monkeypatch.setattr(rpc, "_is_connected", lambda _: next(looks))
        assert len(rpc.devices_of(endpoint)) == 1


# ---- where layers lie ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def second_server(rpc_server: str) -> Iterator[str]:
    del rpc_server  # it skips where there is no RPC
    with server() as (endpoint, _):
        yield endpoint


def weights(model: Path, **options: Any) -> list[set[str]]:
    """The memories that libllama puts weights in: the verifier's, then the drafter's."""
    log: list[str] = []
    with listening(lambda _level, text: log.append(text)):
        Llama(str(model), width=7, n_ctx=64, **ONE_THREAD, **options).close()
    loads = "".join(log).split("llama_prepare_model_devices: using")
    found = [set(re.findall(r"load_tensors: +(\S+) model buffer", load)) for load in loads]
    return [each for each in found if each]


def on(*endpoints: str) -> set[str]:
    """The memories of servers, and the host's for the embeddings."""
    return {"CPU_Mapped", *(f"RPC0[{endpoint}]" for endpoint in endpoints)}


def test_the_verifier_goes_to_the_server_and_the_drafter_stays_at_home(
    rpc_server: str, tiny_verifier: Path, b8: Path
) -> None:
    home = {"CPU_Mapped"}
    options = {"drafter": b8, "rpc": rpc_server}
    for layers in ({}, {"n_gpu_layers": 2}, {"drafter_gpu_layers": -1}):
        assert weights(tiny_verifier, **options, **layers) == [on(rpc_server), home]
    there = {"n_gpu_layers": 0, "drafter_devices": rpc_server}
    assert weights(tiny_verifier, **options, **there) == [home, on(rpc_server) - home]


def test_several_servers_share_a_verifier_and_one_may_get_the_drafter(
    rpc_server: str,
    second_server: str,
    make_llama: MakeLlama,
    tiny_verifier: Path,
    b8: Path,
    expected: str,
) -> None:
    both = {"drafter": b8, "rpc": [rpc_server, second_server], "tensor_split": [1, 1]}
    named = {**both, "drafter_devices": [second_server]}
    assert weights(tiny_verifier, **named) == [
        on(rpc_server, second_server),
        {f"RPC0[{second_server}]"},
    ]
    for options in (both, named):
        llm = make_llama(Llama, tiny_verifier, **options)
        assert answer(llm) == expected
        check_drafts(llm)


def test_a_device_that_no_server_named_has_is_refused(
    rpc_server: str, tiny_verifier: Path, b8: Path
) -> None:
    with pytest.raises(ValueError, match=f"no device 'RPC7'; .* are .*{rpc_server}"):
        Llama(str(tiny_verifier), drafter=b8, rpc=rpc_server, drafter_devices="RPC7")


def test_the_device_chooses_the_likeliest_tokens(
    rpc_server: str, tiny_verifier: Path, b8: Path, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU; of a server's answers one is read faster than many, so it is not asked."""
    monkeypatch.setattr(Placement, "on_device", True)
    options = {"rpc": rpc_server, "drafter_devices": rpc_server, "width": 7, **F32, **ONE_THREAD}
    with Llama(str(tiny_verifier), drafter=b8, **options) as llm:
        assert llm.session.drafter.on_device
        assert answer(llm) == expected
        check_drafts(llm)


def test_a_pickled_model_knows_its_servers(
    rpc_server: str, tiny_verifier: Path, b8: Path, expected: str, make_llama: MakeLlama
) -> None:
    llm = make_llama(Llama, tiny_verifier, drafter=b8, rpc=rpc_server, drafter_devices=rpc_server)
    with pickle.loads(pickle.dumps(llm)) as copy:
        state = copy.__getstate__()
        assert (state["rpc"], state["drafter_devices"]) == ((rpc_server,), (rpc_server,))
        assert answer(copy) == expected


# ---- cancelling ----------------------------------------------------------------------------


@pytest.mark.parametrize("n_gpu_layers", [-1, 2], ids=["all away", "half at home"])
def test_a_long_prompt_is_cancelled_between_chunks(
    n_gpu_layers: int,
    rpc_server: str,
    make_llama: MakeLlama,
    tiny_verifier: Path,
    b8: Path,
    expected: str,
) -> None:
    size = {"n_ctx": 8192, "n_batch": 64, "n_gpu_layers": n_gpu_layers}
    llm = make_llama(Llama, tiny_verifier, drafter=b8, rpc=rpc_server, **size)
    prompt = (llm.tokenize(PROMPT.encode(), special=True) * 400)[:8000]
    caught: list[BaseException] = []

    def read() -> None:
        try:
            llm.eval(prompt)
        except Cancelled as error:
            caught.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    wait_until(lambda: llm.n_tokens > 0, "a chunk was read")
    llm.cancel()
    thread.join(PATIENCE)
    assert len(caught) == 1
    assert 0 < llm.n_tokens < len(prompt)
    assert answer(llm) == expected
    check_drafts(llm)


# ---- a server's end ------------------------------------------------------------------------


def test_a_server_that_was_started_again_is_used_again(
    rpc_server: str, make_llama: MakeLlama, tiny_verifier: Path, b8: Path, expected: str
) -> None:
    del rpc_server
    with server() as (endpoint, _):
        llm = make_llama(Llama, tiny_verifier, drafter=b8, rpc=endpoint)
        assert answer(llm) == expected
        llm.close()
    with pytest.raises(BackendError, match="no server answers"):
        Llama(str(tiny_verifier), rpc=endpoint)
    with server(rpc._split(endpoint)[1]):
        llm = make_llama(Llama, tiny_verifier, drafter=b8, rpc=endpoint)
        assert answer(llm) == expected
        llm.close()


def test_other_models_do_not_see_the_devices_of_a_server_that_has_gone(
    rpc_server: str, make_llama: MakeLlama, tiny_verifier: Path, expected: str
) -> None:
    del rpc_server
    before = placement.gpus()
    with server() as (endpoint, _):
        Llama(str(tiny_verifier), rpc=endpoint, **ONE_THREAD).close()
    assert placement.gpus() == before
    for cls in (llama_cpp.Llama, Llama):
        assert answer(make_llama(cls, tiny_verifier, n_gpu_layers=-1)) == expected


ENDED = """
import os, signal, sys, time, psutil
from dflash_local import BackendError, Llama
model, endpoint, pid, what = sys.argv[1:]
llm = Llama(model, rpc=endpoint, n_threads=1, n_threads_batch=1)
tokens = llm.generate([1, 2, 3], temp=0.0)
next(tokens)
os.kill(int(pid), signal.SIGKILL)
me = psutil.Process()
connections = getattr(me, "net_connections", None) or me.connections
while all(each.status != psutil.CONN_CLOSE_WAIT for each in connections("tcp4")):
    time.sleep(0.01)
try:
    Llama(model, rpc=endpoint)
except BackendError as error:
    print(error, flush=True)
if what == "answer":
    list(zip(range(9), tokens))
else:
    tokens.close()
    llm.close()
print("it went on", flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="processes end otherwise there")
@pytest.mark.parametrize("what", ["answer", "close"])
def test_a_server_that_ends_takes_the_process_with_it(
    what: str, rpc_server: str, tiny_verifier: Path
) -> None:
    """As docs/rpc.md says: ggml ends the process. A second model is still refused with an error."""
    del rpc_server
    with server() as (endpoint, child):
        done = subprocess.run(
            [sys.executable, "-c", ENDED, tiny_verifier, endpoint, str(child.pid), what],
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert "has ended its connection with a model of this process" in done.stdout
    assert "it went on" not in done.stdout
    assert done.returncode == -signal.SIGABRT
    assert "Remote RPC server crashed" in done.stderr

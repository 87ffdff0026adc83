"""llama.cpp's RPC servers: processes, here or on other machines, whose devices hold a model.

ggml remembers the servers that this process has used, once for each endpoint. Their devices are not
registered with the process: a model gets them by its arguments, and no other model sees them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import llama_cpp

from dflash_local.errors import BackendError

from .ggml import default_gpus, function, processor

#: Seconds that a server may take to answer before a model is loaded.
PATIENCE = 20.0

_TRY = "import sys; from dflash_local.machine.rpc import add_server; add_server(sys.argv[1])"
_WHERE = re.compile(r"^\S*\.cpp:\d+: ")  # how ggml begins its last words


def checked_endpoints(rpc: Sequence[str] | str | None) -> tuple[str, ...]:
    """Endpoints ``host:port``, each once; one string may hold several, separated by commas.

    Raises:
        ValueError: one is not of that form.
    """
    names = rpc.split(",") if isinstance(rpc, str) else list(rpc or ())
    for name in names:
        _split(name)
    return tuple(dict.fromkeys(names))


def _split(endpoint: str) -> tuple[str, int]:
    host, colon, port = endpoint.partition(":")
    if not (host and colon and port.isdecimal() and port.isascii() and 0 < int(port) < 1 << 16):
        raise ValueError(
            f"rpc: {endpoint!r} is no endpoint, expected HOST:PORT with a name or an IPv4 address"
        )
    return host, int(port)


def devices_of(endpoint: str) -> list[int]:
    """The devices of a server, as addresses that libllama takes.

    Asked again, they are the same, whether the server has been there all the time or not.

    Raises:
        BackendError: there is no RPC in this build, no such server, or it cannot be used.
    """
    _check_support()
    if not _is_connected(endpoint):
        _check(endpoint)
    return add_server(endpoint)


def add_server(endpoint: str) -> list[int]:
    """As ``devices_of``; ggml ends the process where the server does not answer as it should."""
    pointer = ctypes.c_void_p
    add = method("add_server", pointer, ctypes.c_char_p)
    server = add(endpoint.encode())
    if server is None:
        raise BackendError(f"rpc: the server at {endpoint} offers no device")
    count = function("ggml_backend_reg_dev_count", ctypes.c_size_t, pointer)
    get = function("ggml_backend_reg_dev_get", pointer, pointer, ctypes.c_size_t)
    return [get(server, index) for index in range(count(server))]


@contextlib.contextmanager
def relayed(rpc: Sequence[str] | str | None) -> Iterator[tuple[str, ...]]:
    """Endpoints on this machine that stand for the servers, behind which steps take less time.

    Each is a relay in a child process, see ``rpc_relay``. Close the models that use them first.

    Raises:
        BackendError: a server cannot be reached.
        ValueError: an endpoint is none.
    """
    with contextlib.ExitStack() as stack:
        yield tuple(stack.enter_context(_relay(each)) for each in checked_endpoints(rpc))


@contextlib.contextmanager
def _relay(endpoint: str) -> Iterator[str]:
    _reach(endpoint)
    if not _has_interpreter():
        yield endpoint
        return
    with subprocess.Popen(
        [sys.executable, "-m", "dflash_local.machine.rpc_relay", endpoint],
        env={**os.environ, **_environment()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        yield f"127.0.0.1:{int(child.stdout.readline())}"


def serve(endpoint: str, n_threads: int) -> None:
    """Offers this machine's GPUs, or its processor where there is none, to whoever connects.

    Raises:
        BackendError: there is no RPC in this build, or it cannot listen there.
    """
    _check_support()
    checked_endpoints(endpoint)
    offered = list(default_gpus().values()) or [processor()]
    devices = (ctypes.c_void_p * len(offered))(*offered)
    texts, sizes = [ctypes.c_char_p] * 2, [ctypes.c_size_t] * 2
    start = method("start_server", None, *texts, *sizes, ctypes.POINTER(ctypes.c_void_p))
    start(endpoint.encode(), None, n_threads, len(offered), devices)
    raise BackendError(f"rpc: cannot listen at {endpoint}")


def _check_support() -> None:
    if not llama_cpp.llama_supports_rpc():
        raise BackendError(
            f"rpc: this llama-cpp-python {llama_cpp.__version__} was built without llama.cpp's RPC "
            "backend: install it with CMAKE_ARGS='-DGGML_RPC=ON' (docs/rpc.md)"
        )


def method(name: str, result: Any, *arguments: Any) -> Any:
    """A function ``ggml_backend_rpc_...``, wherever that backend lies."""
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    backend = function("ggml_backend_reg_by_name", pointer, text)(b"RPC")
    address = function("ggml_backend_reg_get_proc_address", pointer, pointer, text)
    whole = f"ggml_backend_rpc_{name}".encode()
    return ctypes.CFUNCTYPE(result, *arguments)(address(backend, whole))


def _is_connected(endpoint: str) -> bool:
    """Whether a model of this process has a connection: a server answers one process at a time."""
    import psutil

    try:
        address = (socket.gethostbyname(_split(endpoint)[0]), _split(endpoint)[1])
        process = psutil.Process()
        ask = getattr(process, "net_connections", None) or process.connections
        found = {each.status for each in ask("tcp4") if tuple(each.raddr) == address}
    except (OSError, psutil.Error):
        return False
    if psutil.CONN_CLOSE_WAIT in found:
        raise BackendError(
            f"rpc: the server at {endpoint} has ended its connection with a model of this process, "
            "which cannot be used any more: restart both"
        )
    return psutil.CONN_ESTABLISHED in found


def _reach(endpoint: str) -> None:
    try:
        socket.create_connection(_split(endpoint), PATIENCE).close()
    except OSError as error:
        raise BackendError(
            f"rpc: no server answers at {endpoint} ({error}): start one there (docs/rpc.md)"
        ) from error


def _has_interpreter() -> bool:
    """A bundled application has none to start."""
    return bool(sys.executable) and not getattr(sys, "frozen", False)


def _environment() -> dict[str, str]:
    """Of a child process: it finds what this one has imported, and does not start a debugger."""
    return {"PYTHONPATH": os.pathsep.join(sys.path), "GGML_NO_BACKTRACE": "1"}


def _check(endpoint: str) -> None:
    """Tries the server out where nothing is lost: what ggml dislikes ends its process."""
    _reach(endpoint)
    if not _has_interpreter():
        return
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TRY, endpoint],
            env={**os.environ, **_environment()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        if _is_connected(endpoint):
            return  # another thread of this process was faster
        raise BackendError(
            f"rpc: the server at {endpoint} does not answer within {PATIENCE:g} s. It works for "
            "one process at a time, and may be working for another"
        ) from None
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").splitlines()
        said = "; ".join(_WHERE.sub("", line) for line in lines[-3:] if line.strip())
        raise BackendError(
            f"rpc: {endpoint} cannot be used: {said}. Expected llama.cpp's RPC server of the "
            f"version that llama-cpp-python {llama_cpp.__version__} holds"
        )

"""The nodes of a context's graphs, seen as they are computed."""

from __future__ import annotations

import ctypes
from typing import Any

from dflash_local._api import _core
from dflash_local.errors import BackendError
from dflash_local.files.taps import Tap
from dflash_local.machine import ggml

_FUNCTIONS = ("get_name", "nbytes", "is_contiguous", "backend_tensor_get")


def node_watch() -> _core.NodeWatch:
    """A watch that nobody reads yet; it has to outlive the context that it is given to.

    Raises:
        AttributeError: ggml hides a function.
    """
    return _core.NodeWatch(**{name: _address(f"ggml_{name}") for name in _FUNCTIONS})


def watch_for(tap: Tap) -> _core.NodeWatch | None:
    """What a context is made with whose features come by this tap; None for the native one.

    Raises:
        BackendError: ggml hides a function.
    """
    if tap.node is None:
        return None
    try:
        return node_watch()
    except AttributeError as error:
        raise BackendError(
            f"this verifier's features have to be read from its graph, and {error}; use "
            "drafter=None to run it plainly, or another build of llama-cpp-python"
        ) from error


def observe(params: Any, watch: _core.NodeWatch | None) -> None:
    """Sets who sees the graphs of the context that these parameters make; None: nobody."""
    kind = type(params.cb_eval)
    params.cb_eval = kind() if watch is None else kind(watch.callback)
    params.cb_eval_user_data = None if watch is None else watch.address


def _address(name: str) -> int:
    return ctypes.cast(ggml.function(name, None), ctypes.c_void_p).value or 0

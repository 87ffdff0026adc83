"""Functions of the ggml that llama_cpp has loaded."""

from __future__ import annotations

import ctypes
import importlib
import pathlib
from collections.abc import Callable
from typing import Any

import llama_cpp

# ggml-backend.h: kinds of devices.
_CPU = 0
_DISCRETE, _INTEGRATED = 1, 2  # those that hold a model's layers

# ggml is one library or two, beside libllama or within it.
_LIBRARIES: tuple[Callable[[], Any], ...] = (
    lambda: llama_cpp.llama_cpp._lib,
    lambda: importlib.import_module("llama_cpp._ggml").libggml,
    lambda: importlib.import_module("llama_cpp._ctypes_extensions").load_shared_library(
        "ggml-base", folder()
    ),
)


def folder() -> pathlib.Path:
    """Where llama_cpp keeps its libraries."""
    return pathlib.Path(llama_cpp.__file__).parent / "lib"


def function(name: str, result: Any, *arguments: Any) -> Any:
    """A function by its name, the type of its result and those of its arguments.

    Raises:
        AttributeError: this build of llama_cpp lacks it, or hides it.
    """
    for library in _LIBRARIES:
        try:
            found = library()[name]  # by [], it is ours alone: llama_cpp's keeps its types
        except (AttributeError, ImportError, OSError, RuntimeError):
            continue
        found.restype, found.argtypes = result, list(arguments)
        return found
    raise AttributeError(f"this llama-cpp-python lacks {name}")


def gpus(*kinds: int) -> dict[str, int]:
    """This machine's devices for layers: names, and the addresses libllama knows."""
    try:
        count = function("ggml_backend_dev_count", ctypes.c_size_t)
        get = function("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
        kind = function("ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)
        name = function("ggml_backend_dev_name", ctypes.c_char_p, ctypes.c_void_p)
    except AttributeError as error:
        raise ValueError(f"the devices cannot be told: {error}") from error
    devices = [get(i) for i in range(count())]
    wanted = kinds or (_DISCRETE, _INTEGRATED)
    return {name(device).decode(): device for device in devices if kind(device) in wanted}


def default_gpus() -> dict[str, int]:
    """Those that libllama uses where none is named: integrated ones where there is no other."""
    return gpus(_DISCRETE) or gpus(_INTEGRATED)


def processor() -> int:
    """The device that this machine's processor is, as libllama knows it."""
    find = function("ggml_backend_dev_by_type", ctypes.c_void_p, ctypes.c_int)
    return int(find(_CPU))

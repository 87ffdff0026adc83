"""The C++ module, connected to the libllama that ``llama_cpp`` has loaded: import it from here."""

from __future__ import annotations

import atexit
import ctypes
from importlib import import_module
from typing import Any

import llama_cpp

from . import _core, private_names

__all__ = ["_core", "internals", "parents_log"]

# A decode on a device cannot be cut short; one that takes longer is not waited for at exit.
_EXIT_SECONDS = 5.0

# What is shared with libllama; two of them for samplers on devices, which may be lacking.
_STRUCTS = (
    "llama_batch",
    "llama_token_data",
    "llama_token_data_array",
    "llama_sampler_chain_params",
    "llama_sampler",
    "llama_sampler_data",
    "llama_sampler_i",
)


def _connect() -> None:
    """Fills the function table of ``_core``.

    Raises:
        ImportError: a function or a private name is missing, or a struct has another layout.
    """
    private_names.check("llama-cpp-python", private_names.LLAMA_CPP)
    structs = [getattr(llama_cpp, name) for name in _STRUCTS if hasattr(llama_cpp, name)]
    library = llama_cpp.llama_cpp._lib
    try:
        _core.bind(library._handle, {struct.__name__: _layout(struct) for struct in structs})
    except ImportError as error:
        raise private_names.unfit("llama-cpp-python", str(error)) from error
    # Threads that are in _core when the interpreter ends would end the process.
    atexit.register(_core.prepare_exit, _EXIT_SECONDS)


def _layout(struct: type[ctypes.Structure]) -> list[int]:
    """The offsets of its fields, then its size."""
    offsets = [getattr(struct, field[0]).offset for field in struct._fields_]
    return [*offsets, ctypes.sizeof(struct)]


_connect()
#: Modules of llama_cpp that are its own affair. They are used after what is wanted of them was
#: looked for.
internals: Any = import_module("llama_cpp._internals")
parents_log: Any = import_module("llama_cpp._logger")

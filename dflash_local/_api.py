"""The C++ module, connected to the libllama that ``llama_cpp`` has loaded: import it from here."""

from __future__ import annotations

import atexit
import ctypes

import llama_cpp

from . import _core

__all__ = ["OLDEST_LLAMA_CPP", "_core"]

# A decode on a device cannot be cut short; one that takes longer is not waited for at exit.
_EXIT_SECONDS = 5.0

#: The oldest llama-cpp-python whose libllama runs all three kinds of DFlash drafters.
OLDEST_LLAMA_CPP = "0.3.36"

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
        ImportError: a function is missing, or a struct has another layout.
    """
    structs = [getattr(llama_cpp, name) for name in _STRUCTS if hasattr(llama_cpp, name)]
    library = llama_cpp.llama_cpp._lib
    try:
        _core.bind(library._handle, {struct.__name__: _layout(struct) for struct in structs})
    except ImportError as error:
        raise ImportError(
            f"llama-cpp-python {llama_cpp.__version__} does not fit dflash-local: {error}. "
            f"Install a version that does: pip install 'llama-cpp-python>={OLDEST_LLAMA_CPP}'"
        ) from error
    # Threads that are in _core when the interpreter ends would end the process.
    atexit.register(_core.prepare_exit, _EXIT_SECONDS)


def _layout(struct: type[ctypes.Structure]) -> list[int]:
    """The offsets of its fields, then its size."""
    offsets = [getattr(struct, field[0]).offset for field in struct._fields_]
    return [*offsets, ctypes.sizeof(struct)]


_connect()

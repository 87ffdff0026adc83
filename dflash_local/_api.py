"""Connects the C++ module to the libllama that ``llama_cpp`` has loaded."""

from __future__ import annotations

import atexit
import ctypes

import llama_cpp

from . import _core

# A decode on a device cannot be cut short; one that takes longer is not waited for at exit.
_EXIT_SECONDS = 5.0

_STRUCTS = (
    llama_cpp.llama_batch,
    llama_cpp.llama_token_data,
    llama_cpp.llama_token_data_array,
    llama_cpp.llama_sampler,
)

#: The oldest llama-cpp-python whose libllama runs all three kinds of DFlash drafters.
OLDEST_LLAMA_CPP = "0.3.36"


def connect() -> None:
    """Fills the function table of ``_core``, and takes libllama's log.

    Raises:
        ImportError: a function is missing, or a struct has another layout.
    """
    library = llama_cpp.llama_cpp._lib
    layouts = {struct.__name__: _layout(struct) for struct in _STRUCTS}
    functions = llama_cpp.llama_sampler_i
    layouts[functions.__name__] = [
        getattr(functions, name).offset for name in ("name", "accept", "apply")
    ]
    try:
        _core.bind(library._handle, layouts)
    except ImportError as error:
        raise ImportError(
            f"llama-cpp-python {llama_cpp.__version__} does not fit dflash-local: {error}. "
            f"Install a version that does: pip install 'llama-cpp-python>={OLDEST_LLAMA_CPP}'"
        ) from error
    from . import llama_log  # it needs the table

    llama_log.install()
    # Threads that are in _core when the interpreter ends would end the process.
    atexit.register(_core.prepare_exit, _EXIT_SECONDS)


def _layout(struct: type[ctypes.Structure]) -> list[int]:
    """The offsets of its fields, then its size."""
    offsets = [getattr(struct, field[0]).offset for field in struct._fields_]
    return [*offsets, ctypes.sizeof(struct)]

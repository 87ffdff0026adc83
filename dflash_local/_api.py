"""The C++ module, connected to the libllama that ``llama_cpp`` has loaded: import it from here."""

from __future__ import annotations

import ctypes

import llama_cpp

from . import _core

__all__ = ["OLDEST_LLAMA_CPP", "_core"]

#: The oldest llama-cpp-python whose libllama runs all three kinds of DFlash drafters.
OLDEST_LLAMA_CPP = "0.3.36"


def _connect() -> None:
    """Fills the function table of ``_core``.

    Raises:
        ImportError: a function is missing, or a struct has another layout.
    """
    structs = (llama_cpp.llama_batch, llama_cpp.llama_token_data, llama_cpp.llama_token_data_array)
    library = llama_cpp.llama_cpp._lib
    try:
        _core.bind(library._handle, {struct.__name__: _layout(struct) for struct in structs})
    except ImportError as error:
        raise ImportError(
            f"llama-cpp-python {llama_cpp.__version__} does not fit dflash-local: {error}. "
            f"Install a version that does: pip install 'llama-cpp-python>={OLDEST_LLAMA_CPP}'"
        ) from error


def _layout(struct: type[ctypes.Structure]) -> list[int]:
    """The offsets of its fields, then its size."""
    offsets = [getattr(struct, field[0]).offset for field in struct._fields_]
    return [*offsets, ctypes.sizeof(struct)]


_connect()

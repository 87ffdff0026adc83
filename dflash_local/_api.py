"""Connects the C++ module to the libllama that ``llama_cpp`` has loaded."""

from __future__ import annotations

import llama_cpp

from . import _core

#: The oldest llama-cpp-python whose libllama runs all three kinds of DFlash drafters.
OLDEST_LLAMA_CPP = "0.3.36"


def connect() -> None:
    """Fills the function table of ``_core``.

    Raises:
        ImportError: a function is missing, or ``llama_batch`` has another layout.
    """
    library = llama_cpp.llama_cpp._lib
    batch = llama_cpp.llama_batch
    layout = {name: getattr(batch, name).offset for name, _ in batch._fields_}
    layout["size"] = llama_cpp.llama_cpp.ctypes.sizeof(batch)
    try:
        _core.bind(library._handle, layout)
    except (ImportError, KeyError) as error:
        raise ImportError(
            f"llama-cpp-python {llama_cpp.__version__} does not fit dflash-local: {error}. "
            f"Install a version that does: pip install 'llama-cpp-python>={OLDEST_LLAMA_CPP}'"
        ) from error

"""Rows of numbers to ggml's types, with ggml's own code: the library that llama_cpp has loaded."""

from __future__ import annotations

import ctypes
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from dflash_local.errors import BackendError

from ..reading.safetensors_file import Float32Array

_THREAD_SIZE = 1 << 17  # numbers that are worth a thread


def quantize(rows: Float32Array, kind: GGMLQuantizationType) -> npt.NDArray[np.uint8]:
    """Encode [n, n_per_row] numbers to [n, bytes of a row]; a row must be whole blocks.

    Raises:
        BackendError: llama_cpp's library does not show the function.
    """
    block_size, block_bytes = GGML_QUANT_SIZES[kind]
    rows = np.ascontiguousarray(rows)
    n_rows, n_per_row = rows.shape
    assert n_per_row % block_size == 0
    encoded = np.empty((n_rows, n_per_row // block_size * block_bytes), np.uint8)
    quantize_chunk = _quantize_chunk()

    def encode(first: int, last: int) -> None:
        part, out = rows[first:last], encoded[first:last]
        quantize_chunk(kind, part.ctypes.data, out.ctypes.data, 0, len(part), n_per_row, None)

    n_threads = min(_n_cpus(), max(1, rows.size // _THREAD_SIZE))
    bounds = [n_rows * i // n_threads for i in range(n_threads + 1)]
    with ThreadPoolExecutor(n_threads) as pool:  # ctypes lets go of the interpreter
        list(pool.map(encode, bounds, bounds[1:]))
    return encoded


@cache
def _quantize_chunk() -> Any:
    # A moment of import that other output types and --help need not wait for.
    import llama_cpp

    # Windows looks for a name in one library, the others in all that it needs too.
    library = ctypes.CDLL("ggml-base.dll") if sys.platform == "win32" else llama_cpp.llama_cpp._lib
    try:
        function = library.ggml_quantize_chunk
    except AttributeError:
        raise BackendError(
            f"llama_cpp {llama_cpp.__version__} has no ggml_quantize_chunk in its library: "
            "reinstall llama-cpp-python"
        ) from None
    int64 = ctypes.c_int64
    function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    function.argtypes += [int64, int64, int64, ctypes.c_void_p]
    function.restype = ctypes.c_size_t
    return function


def _n_cpus() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

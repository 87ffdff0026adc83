"""The inputs of a verifier's layers, read from its context by libllama's own functions."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np

from ..reading.safetensors_file import Float32Array
from .forward_weights import CannotCheck

# llama.cpp declares them without `extern "C"`: as plain C, by Itanium's rules, by MSVC's.
_SET = (
    "llama_set_embeddings_layer_inp",
    "_Z30llama_set_embeddings_layer_inpP13llama_contextjb",
    "?llama_set_embeddings_layer_inp@@YAXPEAUllama_context@@I_N@Z",
)
_GET = (
    "llama_get_embeddings_layer_inp",
    "_Z30llama_get_embeddings_layer_inpP13llama_contextj",
    "?llama_get_embeddings_layer_inp@@YAPEAMPEAUllama_context@@I@Z",
)


class LayerInputs:
    """Features of a drafter's own, whatever other layers somebody reads from the same context.

    Args:
        context: a ``llama_context`` whose architecture fills layer inputs.
        layers: in the order of the features; libllama asserts on a layer that is not there.
        n_embd: the verifier's hidden size.
    """

    def __init__(self, context: Any, layers: Sequence[int], n_embd: int) -> None:
        self._context, self._layers, self._n_embd = context, layers, n_embd
        self._get = _function(_GET, ctypes.POINTER(ctypes.c_float), ctypes.c_uint32)
        enable = _function(_SET, None, ctypes.c_uint32, ctypes.c_bool)
        for layer in layers:
            enable(context, layer, True)

    def read(self, n: int) -> Float32Array:
        """Features [n, layers * n_embd] of the n tokens that the last decode read."""
        shape = (n, self._n_embd)
        rows = [self._get(self._context, layer) for layer in self._layers]
        return np.concatenate([np.ctypeslib.as_array(row, shape) for row in rows], axis=1)


def _function(names: Sequence[str], result: Any, *arguments: Any) -> Any:
    library = llama_cpp.llama_cpp._lib
    function = next((getattr(library, name) for name in names if hasattr(library, name)), None)
    if function is None:
        raise CannotCheck(
            f"llama-cpp-python {llama_cpp.__version__} does not give layer inputs ({names[0]})"
        )
    function.restype, function.argtypes = result, [ctypes.c_void_p, *arguments]
    return function

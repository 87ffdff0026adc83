"""The verifier's layer inputs, by libllama's own functions."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np
import pytest

torch: Any = pytest.importorskip("torch")


class LayerInputs:
    """Layer inputs of a stock context, by libllama's own functions, without our code."""

    # plain C, Itanium, MSVC
    SET = (
        "llama_set_embeddings_layer_inp",
        "_Z30llama_set_embeddings_layer_inpP13llama_contextjb",
        "?llama_set_embeddings_layer_inp@@YAXPEAUllama_context@@I_N@Z",
    )
    GET = (
        "llama_get_embeddings_layer_inp",
        "_Z30llama_get_embeddings_layer_inpP13llama_contextj",
        "?llama_get_embeddings_layer_inp@@YAPEAMPEAUllama_context@@I@Z",
    )

    def __init__(self, llm: llama_cpp.Llama) -> None:
        self.llm = llm
        enable = self._function(self.SET, None, ctypes.c_uint32, ctypes.c_bool)
        self._get = self._function(self.GET, ctypes.POINTER(ctypes.c_float), ctypes.c_uint32)
        self.n_layer = llama_cpp.llama_model_n_layer(llm._model.model)
        for layer in range(self.n_layer):
            enable(llm._ctx.ctx, layer, True)

    @staticmethod
    def _function(names: Sequence[str], result: Any, *arguments: Any) -> Any:
        library = llama_cpp.llama_cpp._lib
        function = next(getattr(library, name) for name in names if hasattr(library, name))
        function.restype, function.argtypes = result, [ctypes.c_void_p, *arguments]
        return function

    def states(self, text: list[int]) -> list[Any]:
        """The input of every layer, [1, n, n_embd]: Hugging Face's hidden states but the last."""
        self.llm.reset()
        self.llm.eval(text)
        shape = (1, len(text), self.llm.n_embd())
        rows = (self._get(self.llm._ctx.ctx, layer) for layer in range(self.n_layer))
        return [torch.from_numpy(np.ctypeslib.as_array(row, shape).copy()) for row in rows]

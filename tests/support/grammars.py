"""Sampler chains with a grammar whose every question is counted, and rows of logits to try them."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
from llama_cpp import LlamaGrammar
from llama_cpp._internals import LlamaSampler

Floats = npt.NDArray[np.float32]

PERSON_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"enum": ["tall", "kind"]}},
    },
    "required": ["name", "age", "tags"],
}
GRAMMARS = {
    "schema": LlamaGrammar.from_json_schema(json.dumps(PERSON_SCHEMA), verbose=False),
    "letters": LlamaGrammar.from_string("root ::= [a-z ]+ [.]", verbose=False),
    "numbers": LlamaGrammar.from_string('root ::= ([0-9] [0-9]? ", ")+ "é"', verbose=False),
}


class Chain(LlamaSampler):  # type: ignore[misc]
    """A chain that is made by an `add` each; `seen` counts the candidates its grammar was shown.

    A grammar without a name is like any sampler: it sees whole rows, and cuts no drafts.
    """

    def __init__(
        self,
        llm: llama_cpp.Llama,
        grammar: LlamaGrammar,
        *add: Callable[[Any], None],
        named: bool = True,
    ) -> None:
        super().__init__()
        self.seen: list[int] = []
        self._named = named
        self._llm = llm
        self._grammar = grammar
        for one in add:
            one(self)

    def add_counted(self) -> None:
        """The grammar, with an `apply` of our own before its own."""
        self.add_grammar(self._llm._model, self._grammar)
        last = llama_cpp.llama_sampler_chain_n(self.sampler) - 1
        sampler = llama_cpp.llama_sampler_chain_get(self.sampler, last)
        self._functions = llama_cpp.llama_sampler_i()
        size = ctypes.sizeof(self._functions)
        ctypes.memmove(ctypes.byref(self._functions), sampler.contents.iface, size)
        self._apply = ctypes.cast(self._functions.apply, llama_cpp.llama_sampler_i_apply)

        def counted(own: Any, candidates: Any) -> None:
            self.seen.append(candidates.contents.size)
            self._apply(own, candidates)

        self._functions.apply = llama_cpp.llama_sampler_i_apply(counted)
        if not self._named:
            self._functions.name = llama_cpp.llama_sampler_i_name(0)
        sampler.contents.iface = ctypes.pointer(self._functions)
        self._counted = sampler

    def allowed(self, n_vocab: int) -> npt.NDArray[np.int64]:
        """The tokens that the grammar allows next."""
        data = (llama_cpp.llama_token_data * n_vocab)(*((i, 0.0, 0.0) for i in range(n_vocab)))
        array = llama_cpp.llama_token_data_array(data, n_vocab, -1, False)
        self._apply(self._counted, ctypes.byref(array))
        return np.flatnonzero([token.logit > -np.inf for token in data])


def last_row(llm: llama_cpp.Llama) -> Floats:
    """The logits of the last row, where libllama has them: what is written there is sampled."""
    row = llama_cpp.llama_get_logits_ith(llm._ctx.ctx, -1)
    return np.ctypeslib.as_array(row, (llm.n_vocab(),))

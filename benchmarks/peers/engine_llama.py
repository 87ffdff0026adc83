"""Stock ``llama_cpp.Llama`` and ours, in one process: the same build of libllama.

Adaptive widths have a model of their own: they learn from every step that it takes, and would know
more than they should from those of fixed widths.
"""

from __future__ import annotations

import time
from typing import Any

from .answer import ADAPTIVE, OURS, STOCK
from .engine import required

# Ours counts what its step emitted last, too; an answer may be cut inside it.
_Counts = tuple[int, int, int]


class LlamaEngine:
    """The models, decoding through ``generate`` as their users do."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self._llama_cpp = required("llama_cpp", "pip install llama-cpp-python")
        self._package = required("dflash_local", "install this project (pip install -e .)")
        options = {
            "n_ctx": setup["n_ctx"],
            "n_threads": setup["threads"],
            "n_threads_batch": setup["threads"],
            "n_gpu_layers": setup["gpu_layers"],
            "verbose": False,
        }
        if setup["flash_attn"] != "default":
            options["flash_attn"] = setup["flash_attn"] == "on"
        self._models = {
            STOCK: self._llama_cpp.Llama(setup["verifier"], **options),
            OURS: self._ours(setup, options, width=0),
            ADAPTIVE: self._ours(setup, options, width=None),
        }

    def _ours(self, setup: dict[str, Any], options: dict[str, Any], width: int | None) -> Any:
        verifier, drafter = setup["verifier"], setup["drafter"]
        return self._package.Llama(verifier, drafter=drafter, width=width, **options)

    def versions(self) -> dict[str, str]:
        return {
            "dflash-local": self._package.__version__,
            "llama-cpp-python": self._llama_cpp.__version__,
        }

    def answer(self, engine: str, width: int, prompt: list[int], max_tokens: int) -> dict[str, Any]:
        llm = self._models[engine]
        llm.reset()
        if engine == OURS:
            llm.width = width
        tokens, times = self._generate(llm, prompt, max_tokens)
        n_steps, n_drafted, n_accepted = (
            (len(tokens) - 1, 0, 0) if engine == STOCK else _drafting(llm)
        )
        return {
            "n_tokens": len(tokens),
            "seconds": times[-1] - times[1],
            "seconds_to_first": times[1] - times[0],
            "n_steps": n_steps,
            "n_drafted": n_drafted,
            "n_accepted": n_accepted,
            "output": " ".join(map(str, tokens)),
        }

    def _generate(
        self, llm: Any, prompt: list[int], max_tokens: int
    ) -> tuple[list[int], list[float]]:
        """The tokens, and the time of the request and of each token."""
        vocab = self._llama_cpp.llama_model_get_vocab(llm.model)
        is_end = self._llama_cpp.llama_vocab_is_eog
        tokens: list[int] = []
        times = [time.perf_counter()]
        generator = llm.generate(prompt, temp=0.0)
        for token in generator:
            times.append(time.perf_counter())
            tokens.append(token)
            if len(tokens) >= max_tokens or is_end(vocab, token):
                break
        generator.close()
        return tokens, times


def _drafting(llm: Any) -> _Counts:
    stats = llm.stats.last
    return stats.n_steps, stats.n_drafted, stats.n_accepted


def load(setup: dict[str, Any]) -> LlamaEngine:
    """The models."""
    return LlamaEngine(setup)

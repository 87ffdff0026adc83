"""Upstream's own loop, in the wheel ``xllamacpp``: its ``llama-server``, without HTTP.

The server takes a draft length when it is made and not with a request. Times are the server's own.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from .answer import EAGLE3, MTP, UPSTREAM
from .engine import required

# The cheapest greedy sampler it has.
_GREEDY = {"temperature": 0, "samplers": ["top_k"], "top_k": 1}


class UpstreamEngine:
    """A server for each kind and length of drafts; 0 is plain decoding."""

    def __init__(self, setup: dict[str, Any]) -> None:
        advice = "pip install xllamacpp"
        self._x = required("xllamacpp", advice)
        self._setup = setup
        self._servers = {
            (engine, width): self._server(engine, width) for engine, width in setup["variants"]
        }

    def versions(self) -> dict[str, str]:
        return {"xllamacpp": version("xllamacpp")}

    def answer(self, engine: str, width: int, prompt: list[int], max_tokens: int) -> dict[str, Any]:
        request = {"prompt": prompt, "n_predict": max_tokens, "cache_prompt": False, **_GREEDY}
        reply = self._servers[engine, width].handle_completions(request)
        if "timings" not in reply:
            raise RuntimeError(f"the server answered {reply}")
        return _answer(reply)

    def _server(self, engine: str, width: int) -> Any:
        params = self._plain_params()
        if width > 0:
            self._add_drafts(params, engine, width)
        return self._x.Server(params)

    def _plain_params(self) -> Any:
        setup, params = self._setup, self._x.CommonParams()
        params.model.path = setup["verifier"]
        params.n_ctx = setup["n_ctx"]
        params.n_batch = params.n_ubatch = 512  # as llama_cpp's
        params.n_parallel = 1
        params.n_gpu_layers = setup["gpu_layers"]
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = setup["threads"]
        params.cache_prompt = params.fit_params = params.use_jinja = False
        params.cache_ram_mib = params.n_ctx_checkpoints = 0
        if setup["flash_attn"] != "default":
            types = self._x.llama_flash_attn_type
            on, off = "LLAMA_FLASH_ATTN_TYPE_ENABLED", "LLAMA_FLASH_ATTN_TYPE_DISABLED"
            params.flash_attn_type = getattr(types, on if setup["flash_attn"] == "on" else off)
        return params

    def _add_drafts(self, params: Any, engine: str, width: int) -> None:
        setup, speculative = self._setup, params.speculative
        kinds = {EAGLE3: "EAGLE3", MTP: "MTP", UPSTREAM: setup["kind"].upper()}
        kind = f"COMMON_SPECULATIVE_TYPE_DRAFT_{kinds[engine]}"
        speculative.types = [getattr(self._x.common_speculative_type, kind)]
        if engine != MTP:  # its drafter is a part of the verifier's file
            file = setup["eagle3"] if engine == EAGLE3 else setup["drafter"]
            speculative.draft.mparams.path = file
        speculative.draft.n_max = width
        speculative.draft.n_gpu_layers = setup["gpu_layers"]
        for cpu in (speculative.draft.cpuparams, speculative.draft.cpuparams_batch):
            cpu.n_threads = setup["threads"]


def _answer(reply: dict[str, Any]) -> dict[str, Any]:
    timings = reply["timings"]
    n_tokens, n_accepted = timings["predicted_n"], timings.get("draft_n_accepted", 0)
    return {
        "n_tokens": n_tokens,
        "seconds": timings["predicted_ms"] / 1e3,  # from the first token on
        "seconds_to_first": timings["prompt_ms"] / 1e3,
        # It does not count steps; each emits its accepted drafts and one token more.
        "n_steps": max(n_tokens - 1 - n_accepted, 0),
        "n_drafted": timings.get("draft_n", 0),
        "n_accepted": n_accepted,
        "output": reply["choices"][0]["text"],
    }


def load(setup: dict[str, Any]) -> UpstreamEngine:
    """All servers."""
    return UpstreamEngine(setup)

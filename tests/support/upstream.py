"""Answers by upstream's own speculative loop: llama.cpp's server in the wheel `xllamacpp`.

A program, `python upstream.py < request.json`, because that wheel brings its own libllama: two of
them must never meet in one process. `answers` runs it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from waiting import PATIENCE


@dataclass(frozen=True)
class Request:
    """What to run. `kind` is dflash or dspark, `width` the draft length."""

    verifier: str
    drafter: str
    kind: str
    width: int
    prompts: list[list[int]]
    n_tokens: int
    n_ctx: int = 512
    n_threads: int = 1


@dataclass(frozen=True)
class Answer:
    """What upstream counted, and the text without its end mark."""

    text: str
    n_drafted: int
    n_accepted: int


def answers(request: Request) -> list[Answer]:
    """Greedy answers, in another process."""
    run = subprocess.run(
        [sys.executable, str(Path(__file__))],
        input=json.dumps(asdict(request)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return [Answer(**fields) for fields in json.loads(run.stdout)]


def _params(request: Request) -> Any:
    import xllamacpp  # type: ignore[import-untyped]

    f32 = xllamacpp.ggml_type.GGML_TYPE_F32
    params = xllamacpp.CommonParams()
    params.model.path = request.verifier
    params.n_ctx = params.n_batch = params.n_ubatch = request.n_ctx
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = request.n_threads
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = params.cache_type_v = f32
    params.warmup = params.cache_prompt = params.fit_params = params.use_jinja = False
    params.cache_ram_mib = params.n_ctx_checkpoints = 0
    draft = params.speculative.draft
    draft.mparams.path = request.drafter
    draft.n_max, draft.n_min, draft.p_min = request.width, 0, 0.0
    draft.cache_type_k = draft.cache_type_v = f32
    draft.cpuparams.n_threads = draft.cpuparams_batch.n_threads = request.n_threads
    kind = f"COMMON_SPECULATIVE_TYPE_DRAFT_{request.kind.upper()}"
    params.speculative.types = [getattr(xllamacpp.common_speculative_type, kind)]
    return params


def _answer(server: Any, prompt: Sequence[int], n_tokens: int) -> Answer:
    greedy = {"temperature": 0, "samplers": ["top_k"], "top_k": 1}
    reply = server.handle_completions(
        {"prompt": prompt, "n_predict": n_tokens, "cache_prompt": False, **greedy}
    )
    timings = reply["timings"]
    return Answer(
        text=reply["choices"][0]["text"],
        # absent where nothing was drafted
        n_drafted=timings.get("draft_n", 0),
        n_accepted=timings.get("draft_n_accepted", 0),
    )


def main() -> None:
    import xllamacpp

    request = Request(**json.load(sys.stdin))
    server = xllamacpp.Server(_params(request))
    replies = [_answer(server, prompt, request.n_tokens) for prompt in request.prompts]
    sys.stdout.write(json.dumps([asdict(reply) for reply in replies]))
    sys.stdout.flush()
    os._exit(0)  # the server's threads would keep the process waiting


if __name__ == "__main__":
    main()

"""A process with one model, which answers for as many seconds as it is asked to.

    python benchmarks/busy/answerer.py '{"verifier": "V.gguf", ...}'

Reads a number of seconds a line, writes a line of JSON: tokens and the seconds that they took. How
OpenMP's threads wait is decided once a process.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

from dflash_local.machine.openmp import spin_briefly

if TYPE_CHECKING:
    import llama_cpp

PROMPT = """\
<|im_start|>user
{question}<|im_end|>
<|im_start|>assistant
"""


def load(setup: dict[str, Any]) -> llama_cpp.Llama:
    """Stock llama_cpp without a drafter, ours with one."""
    import llama_cpp

    from dflash_local import Llama

    n = setup["threads"]
    options = {"n_ctx": 1024, "n_threads": n, "n_threads_batch": n, "verbose": False}
    if setup["drafter"] is None:
        return llama_cpp.Llama(setup["verifier"], **options)
    return Llama(setup["verifier"], drafter=setup["drafter"], width=setup["width"], **options)


def answer(llm: llama_cpp.Llama, prompt: list[int], seconds: float) -> tuple[int, float]:
    """Tokens and their seconds, the first of an answer apart, which waits for the prompt."""
    n_tokens, took = 0, 0.0
    while took < seconds:
        with closing(llm.generate(prompt, temp=0)) as stream:
            next(stream)
            start = time.perf_counter()
            for token in stream:
                n_tokens += 1
                if token == llm.token_eos() or took + time.perf_counter() - start > seconds:
                    break
            took += time.perf_counter() - start
    return n_tokens, took


def main(setup: dict[str, Any]) -> None:
    """Answers until nobody asks any more."""
    if setup["brief"]:
        spin_briefly()
    with ExitStack() as stack:
        if setup["watch"]:
            from dflash_local.machine.busy import BusyWatch

            stack.enter_context(BusyWatch(setup["threads"]))
        llm = stack.enter_context(closing(load(setup)))
        prompt = llm.tokenize(PROMPT.format(question=setup["question"]).encode(), special=True)
        print(json.dumps("loaded"), flush=True)
        for line in sys.stdin:
            print(json.dumps(answer(llm, prompt, float(line))), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

"""What a step costs beside the libllama calls inside it, on the demo pair.

The wall time of ``Session.step`` as Python sees it, against the seconds that the core spent inside
libllama (decodes, rows read, the sampler chain). Median over the steps, by width; several rounds,
widths interleaved. The aim is at most 2 %.

    python benchmarks/step_overhead.py [--verifier V.gguf --drafter D.gguf] [--threads N]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict

import llama_cpp
from llama_cpp._internals import LlamaSampler

from dflash_local import Finish, Llama, Session
from dflash_local.files import demo_pair

PROMPT = (
    "<|im_start|>user\nExplain what photosynthesis is, and why it matters.<|im_end|>\n"
    "<|im_start|>assistant\n"
)


def greedy_chain() -> LlamaSampler:
    sampler = LlamaSampler()
    sampler.add_greedy()
    return sampler


def libllama_seconds(session: Session) -> float:
    drafter = session.drafter
    assert drafter is not None
    stats = session.total_stats
    return session.verifier.backend_seconds + drafter.backend_seconds + stats.seconds_sample


def measure(session: Session, prompt: list[int], n_tokens: int) -> list[tuple[float, float]]:
    """(wall, libllama) seconds of every step of one greedy answer."""
    session.sync(prompt)
    sampler = greedy_chain()
    session.step(sampler)  # the first token is no verify step
    times = []
    while len(session.tokens) < len(prompt) + n_tokens:
        inside = libllama_seconds(session)
        start = time.perf_counter()
        result = session.step(sampler)
        wall = time.perf_counter() - start
        times.append((wall, libllama_seconds(session) - inside))
        if result.finish is not Finish.none:
            break
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--verifier", default=None)
    parser.add_argument("--drafter", default=None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    llm = Llama(
        args.verifier or demo_pair.verifier(),
        drafter=args.drafter or demo_pair.drafter(),
        n_ctx=1024,
        n_threads=args.threads,
        n_threads_batch=args.threads,
    )
    session = llm.session
    assert session is not None
    prompt = llm.tokenize(PROMPT.encode(), special=True)
    widths = [w for w in (0, 1, 2, 4, 7) if session.drafter and w <= session.drafter.max_width]
    times: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for _ in range(args.rounds):
        for width in widths:
            session.width = width
            times[width] += measure(session, prompt, args.tokens)
    print(f"llama-cpp-python {llama_cpp.__version__}, {args.threads} threads")
    print("| width | steps | step, ms | inside libllama, ms | overhead, ms | overhead |")
    print("|---|---|---|---|---|---|")
    for width in widths:
        wall = statistics.median(w for w, _ in times[width])
        inside = statistics.median(i for _, i in times[width])
        extra = statistics.median(w - i for w, i in times[width])
        share = statistics.median((w - i) / i for w, i in times[width])
        print(
            f"| {width} | {len(times[width])} | {1e3 * wall:.2f} | {1e3 * inside:.2f} "
            f"| {1e3 * extra:.3f} | {share:.2%} |"
        )
    llm.close()


if __name__ == "__main__":
    main()

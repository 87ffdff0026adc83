"""What rejection sampling accepts more than exact sampling, at temperatures above 0.

Tokens a step of a fixed width, over the same prompts and seeds, both ways in turn: their ratio is
the speed-up that ``sampling="rejection"`` brings, since a step costs the same. The answers are not
the same texts, so it takes many tokens; quartiles are over the seeds.

    python benchmarks/rejection.py [--verifier V.gguf --drafter D.gguf] [--prompts P.jsonl]
"""

from __future__ import annotations

import argparse
import statistics
from itertools import islice
from pathlib import Path

from dflash_local import Llama
from dflash_local.bench.suite import SUITES, load_prompts
from dflash_local.files import demo_pair
from dflash_local.train.verifiers.gguf_template import Template

SAMPLING = ("exact", "rejection")


def tokens_a_step(
    llm: Llama, prompts: list[list[int]], temperature: float, args: argparse.Namespace, seed: int
) -> float:
    """Acceptance length over all prompts."""
    n_tokens = n_steps = 0
    for prompt in prompts:
        llm.set_seed(seed)
        answer = llm.generate(prompt, temp=temperature)
        for token in islice(answer, args.max_tokens):
            if token == llm.token_eos():
                break
        answer.close()
        n_tokens += llm.stats.last.n_tokens - 1  # the first comes from the prompt
        n_steps += llm.stats.last.n_steps
    return n_tokens / n_steps


def main(args: argparse.Namespace) -> None:
    verifier = args.verifier or demo_pair.verifier()
    drafter = args.drafter or demo_pair.drafter()
    template = Template(verifier)
    chosen = load_prompts(args.prompts)[:: args.every]
    prompts = [template.prompt(list(prompt.messages)) for prompt in chosen]
    threads = {"n_threads": args.threads, "n_threads_batch": args.threads}
    with Llama(verifier, drafter=drafter, width=args.width, n_ctx=2048, **threads) as llm:
        for temperature in args.temperatures:
            lengths: dict[str, list[float]] = {sampling: [] for sampling in SAMPLING}
            for seed in range(args.seeds):
                for sampling in SAMPLING:
                    llm.sampling = sampling
                    found = tokens_a_step(llm, prompts, temperature, args, seed)
                    lengths[sampling].append(found)
            report(temperature, lengths)


def report(temperature: float, lengths: dict[str, list[float]]) -> None:
    exact, rejection = (lengths[sampling] for sampling in SAMPLING)
    ratios = [b / a for a, b in zip(exact, rejection, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(
        f"temperature {temperature:g}: {statistics.mean(exact):.3f} tokens a step exact, "
        f"{statistics.mean(rejection):.3f} by rejection: {middle:.3f}x [{low:.3f}, {high:.3f}]",
        flush=True,
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--verifier", type=Path, help="default: the demo pair")
    parser.add_argument("--drafter", type=Path)
    parser.add_argument("--prompts", type=Path, default=SUITES["default"], help="JSONL")
    parser.add_argument("--every", type=int, default=4, help="take every so many of the prompts")
    parser.add_argument("--width", type=int, default=4)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.7, 1.0])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())

"""What a grammar costs: milliseconds a token of free text and of JSON, in stock llama_cpp and here.

    python benchmarks/grammar.py [--verifier V.gguf --drafter D.gguf] [--temperatures 0 0.8]

Each prompt is answered freely, as any JSON, and after a schema, by stock ``llama_cpp.Llama``, by
ours without drafts and by ours with adaptive widths, in turn; medians over answers. The first token
is left out, which waits for the prompt.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from statistics import median

import llama_cpp
from llama_cpp.llama_grammar import JSON_GBNF, LlamaGrammar

from dflash_local import Llama
from dflash_local.cli.cores import physical_cores
from dflash_local.cli.numbers import positive
from dflash_local.files import demo_pair
from dflash_local.train.verifiers.gguf_template import Template

PROMPTS = (
    "Describe Anna, who is 13, tall and kind, as JSON with the keys name, age and tags.",
    'Give me a city as JSON, like {"name": "Oslo", "age": 975, "tags": ["old", "cold"]}.',
    'Extract name, age and tags as JSON: "Ben, a quick and clever boy, turned nine today."',
    'Write a made-up animal as JSON: its "name", its "age" in years, and three "tags".',
)
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "age", "tags"],
}
FORMS = {
    "free": None,
    "JSON": LlamaGrammar.from_string(JSON_GBNF, verbose=False),
    "schema": LlamaGrammar.from_json_schema(json.dumps(SCHEMA), verbose=False),
}
WIDTHS = {"width 0": 0, "adaptive": None}
Times = dict[tuple[str, str], list[float]]


def seconds_a_token(
    llm: llama_cpp.Llama, prompt: list[int], form: str, temperature: float, most: int
) -> float:
    """Of an answer, from its first token on."""
    llm.set_seed(1)
    with closing(llm.generate(prompt, temp=temperature, grammar=FORMS[form])) as answer:
        next(answer)
        start = time.perf_counter()
        n_tokens = sum(1 for _ in _until_its_end(llm, islice(answer, most - 1)))
        return (time.perf_counter() - start) / max(1, n_tokens)


def _until_its_end(llm: llama_cpp.Llama, answer: Iterator[int]) -> Iterator[int]:
    for token in answer:
        yield token
        if token == llm.token_eos():
            return


def main(arguments: argparse.Namespace) -> int:
    """Returns the exit status."""
    verifier = arguments.verifier or demo_pair.verifier()
    drafter = arguments.drafter or demo_pair.drafter()
    template = Template(verifier)
    prompts = [template.prompt([{"role": "user", "content": text}]) for text in PROMPTS]
    n_threads = arguments.threads
    options = {"n_ctx": 1024, "n_threads": n_threads, "n_threads_batch": n_threads}
    with ExitStack() as stack:
        stock = stack.enter_context(
            closing(llama_cpp.Llama(str(verifier), verbose=False, **options))
        )
        ours = stack.enter_context(Llama(verifier, drafter=drafter, **options))
        for temperature in arguments.temperatures:
            times: Times = {}
            for prompt in prompts * arguments.rounds:
                for form in FORMS:
                    _answer(times, stock, ours, prompt, form, temperature, arguments.max_tokens)
            _show(temperature, times)
    return 0


def _answer(
    times: Times,
    stock: llama_cpp.Llama,
    ours: Llama,
    prompt: list[int],
    form: str,
    temperature: float,
    most: int,
) -> None:
    """The same answer by each engine, one after the other."""
    found = {"stock": seconds_a_token(stock, prompt, form, temperature, most)}
    for name, width in WIDTHS.items():
        ours.width = width
        found[name] = seconds_a_token(ours, prompt, form, temperature, most)
    for name, seconds in found.items():
        times.setdefault((form, name), []).append(seconds)


def _show(temperature: float, times: Times) -> None:
    print(f"\ntemperature {temperature:g}, ms a token\n")
    print("| | stock | width 0 | adaptive |\n|---|---:|---:|---:|")
    for form in FORMS:
        cells = (f"{1e3 * median(times[form, name]):.1f}" for name in ("stock", *WIDTHS))
        print(f"| {form} | {' | '.join(cells)} |", flush=True)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--verifier", type=Path, metavar="V.gguf", help="default: the demo pair")
    parser.add_argument("--drafter", type=Path, metavar="D.gguf")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.8], metavar="T")
    parser.add_argument("--max-tokens", type=positive, default=64, metavar="N")
    parser.add_argument("--rounds", type=positive, default=3, metavar="N")
    parser.add_argument("--threads", type=positive, default=physical_cores(), metavar="N")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(_parse(sys.argv[1:])))

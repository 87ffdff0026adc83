"""What drafting gives by the depth of the context: acceptance and cost at 1k, 8k and 32k tokens.

    python benchmarks/depth.py [--depths 1024 8192 32768] [--drafter-ctx 8192] [--width 3]

A text of that length (source code of Python's library) comes first, then a question. Stock
``llama_cpp.Llama`` and ours, with adaptive widths and with a fixed one, answer each question in
turn, greedily. They keep the text in memory between questions. The drafter sees the last
``--drafter-ctx`` tokens. A depth beyond the verifier's own context is reached by YaRN. The first
question does not count, and the last column is to be 0.98 at least.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import fmean, median
from typing import Any

from dflash_local.cli.cores import physical_cores
from dflash_local.cli.numbers import positive
from dflash_local.machine.openmp import spin_briefly
from dflash_local.machine.other_work import OtherWork

sys.path.append(str(Path(__file__).resolve().parents[1] / "drafters" / "workloads"))

from python_classes import prompts as python_classes

SEEN = 1000  # prompts that a drafter here was trained on
PLAIN, ADAPTIVE = "plain", "adaptive"


@dataclass
class Measured:
    """Of each answer: milliseconds a token after the first, and tokens a step."""

    milliseconds: list[float] = field(default_factory=list)
    lengths: list[float] = field(default_factory=list)


def options(args: argparse.Namespace, depth: int) -> dict[str, Any]:
    """Of both engines' contexts: room for the text, a question and an answer."""
    import llama_cpp

    from dflash_local.files.gguf_header import GGUFHeader

    n_ctx = depth + args.max_tokens + 256
    header = GGUFHeader(args.verifier)
    trained = int(header.get(f"{header.get('general.architecture')}.context_length"))
    found: dict[str, Any] = {"n_ctx": n_ctx, "flash_attn": True, "verbose": False}
    found |= {"n_threads": args.threads, "n_threads_batch": args.threads}
    if n_ctx > trained:
        yarn = llama_cpp.LLAMA_ROPE_SCALING_TYPE_YARN
        found |= {"rope_scaling_type": yarn, "rope_freq_scale": trained / n_ctx}
    return found


def prompts(llm: Any, args: argparse.Namespace, depth: int) -> Iterator[list[int]]:
    """Each question after the same text of so many tokens."""
    from dflash_local.train.verifiers.gguf_template import Template

    sources = sorted(Path(tempfile.__file__).parent.glob("*.py"))
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)[: 8 * depth]
    tokens = llm.tokenize(text.encode(), add_bos=False)[:depth]
    begun = llm.detokenize(tokens).decode(errors="ignore")
    template = Template(args.verifier)
    for question in islice(python_classes(), SEEN, SEEN + args.questions + 1):
        messages = [{"role": "system", "content": begun}, {"role": "user", "content": question}]
        yield template.prompt(messages)


def measure(args: argparse.Namespace, depth: int) -> dict[str, Measured]:
    """By engine; each time another one answers first."""
    import llama_cpp

    from dflash_local import Llama

    common = options(args, depth)
    with ExitStack() as stack:
        stock = stack.enter_context(closing(llama_cpp.Llama(str(args.verifier), **common)))
        common |= {"drafter": args.drafter, "drafter_ctx": args.drafter_ctx}
        ours = stack.enter_context(Llama(args.verifier, **common))
        widths = {ADAPTIVE: None, f"width {args.width}": args.width}
        names = [PLAIN, *widths]
        found = {name: Measured() for name in names}
        for number, prompt in enumerate(prompts(stock, args, depth)):
            shift = number % len(names)
            for name in names[shift:] + names[:shift]:
                ours.width = widths.get(name)
                _answer(stock if name == PLAIN else ours, prompt, args.max_tokens, found[name])
    return found


def _answer(llm: Any, prompt: list[int], n_tokens: int, found: Measured) -> None:
    from dflash_local.bench.asking import ask

    said, times, steps, _ = ask(llm, prompt, n_tokens, 0.0, past_end=True)
    found.milliseconds.append(1e3 * (times[-1] - times[0]) / (len(said) - 1))
    found.lengths.append(len(said) / len(steps) if steps else 1.0)


def main(args: argparse.Namespace) -> int:
    """Returns the exit status."""
    spin_briefly()  # before libllama is loaded

    from dflash_local.files import demo_pair

    args.verifier = args.verifier or demo_pair.verifier()
    args.drafter = args.drafter or demo_pair.drafter()
    others = OtherWork()
    print(f"{args.verifier.name}, {args.drafter.name}: ms a token (tokens a step)\n")
    for depth in args.depths:
        found = measure(args, depth)
        if depth == args.depths[0]:
            print(f"| context | {' | '.join(found)} | {ADAPTIVE} over {PLAIN} |")
            print(f"|---:|{'---:|' * (len(found) + 1)}")
        times = {name: median(one.milliseconds[1:]) for name, one in found.items()}
        cells = [f"{times[n]:.1f} ({fmean(one.lengths[1:]):.2f})" for n, one in found.items()]
        gain = f"{times[PLAIN] / times[ADAPTIVE]:.2f}x"
        print(f"| {depth} | {' | '.join(cells)} | {gain} |", flush=True)
    if (busy := others.share()) > OtherWork.TOO_MUCH:
        print(f"\nOther processes took {busy:.0%} of the CPUs: the times are not to be trusted.")
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--verifier", type=Path, metavar="V.gguf", help="default: the demo's")
    add("--drafter", type=Path, metavar="D.gguf", help="default: the demo's")
    add("--depths", type=positive, nargs="+", default=[1024, 8192, 32768], metavar="N")
    add("--drafter-ctx", type=positive, default=8192, metavar="N", help="tokens it sees")
    add("--width", type=positive, default=3, metavar="N", help="the fixed one")
    add("--questions", type=positive, default=6, metavar="N", help="beside the first")
    add("--max-tokens", type=positive, default=64, metavar="N")
    add("--threads", type=positive, default=physical_cores(), metavar="N")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(parse(sys.argv[1:])))

"""What a smaller draft vocabulary saves, and what acceptance it costs, on the demo pair.

    python benchmarks/draft_vocab.py [--corpus FILE] [--sizes 4096 8192] [--threads N]
    python benchmarks/draft_vocab.py --drafter CHECKPOINT --verifier V.gguf --corpus FILE

The checkpoint is converted whole and once for every size. Each drafter answers the first prompts of
every category of the bench suite, greedily and at every width; the drafters take turns. Acceptance
length is tokens a verify step, over all answers. The ratios are medians over the answers, each
against the same answer with the whole vocabulary: of the median draft, and of the seconds a token.
Below 1 is faster. Without --corpus the tokens are counted in the verifier's answers to the suite's
other prompts: a small corpus, but of the kind of text that is then asked for.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import llama_cpp
from dflash_local.convert import ConvertReport, convert
from dflash_local.convert.verifiers.tokenizer import Tokenizer
from dflash_local.convert.vocabularies.corpus import count_tokens
from dflash_local.convert.vocabularies.frequencies import write_frequencies
from rich.console import Console
from rich.progress import track

from dflash_local import DFlashError, Llama
from dflash_local.bench.asking import ask
from dflash_local.bench.measures import acceptance_length, part_medians
from dflash_local.bench.record import Step
from dflash_local.bench.rendering import render
from dflash_local.bench.suite import SUITES, Prompt, first_of_each, load_prompts
from dflash_local.files import demo_pair

DEMO_CHECKPOINT = Path(__file__).parents[1] / "drafters" / "smollm2-135m-dflash"

#: The steps of each answer, by (name of the drafter, width).
Results = dict[tuple[str, int], list[list[Step]]]
WHOLE = "all"


def run(options: argparse.Namespace) -> None:
    """Convert, ask, print."""
    prompts = load_prompts(SUITES["default"])
    asked = first_of_each(prompts, options.prompts)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        reports = {WHOLE: convert(options.drafter, options.verifier, folder / "all.gguf")}
        whole = load(options, reports[WHOLE], stack)
        corpus = options.corpus
        if corpus is None:
            corpus = folder / "answers.jsonl"
            others = [prompt for prompt in prompts if prompt not in asked]
            write_answers(whole, others, options.tokens, corpus)
        reports |= convert_sizes(options, corpus, folder, whole.n_vocab())
        llms = {WHOLE: whole} | {
            n: load(options, report, stack) for n, report in reports.items() if n != WHOLE
        }
        results = measure(llms, asked, options)
        print_tables(options, reports, results)


def load(options: argparse.Namespace, report: ConvertReport, stack: ExitStack) -> Llama:
    """The verifier with a drafter; its weights are mapped once for all."""
    llm = Llama(
        options.verifier,
        drafter=report.output,
        n_ctx=1024,
        n_threads=options.threads,
        n_threads_batch=options.threads,
    )
    stack.callback(llm.close)
    return llm


def write_answers(llm: Llama, prompts: Sequence[Prompt], n_tokens: int, path: Path) -> None:
    """The verifier's greedy answers to prompts, as a corpus."""
    with path.open("w", encoding="utf-8") as file:
        for prompt in progress(prompts, "answers for the corpus"):
            tokens, *_ = ask(llm, render(llm, prompt), n_tokens, 0.0)
            file.write(json.dumps({"tokens": tokens}) + "\n")


def convert_sizes(
    options: argparse.Namespace, corpus: Path, folder: Path, n_vocab: int
) -> dict[str, ConvertReport]:
    """A drafter of every size below the vocabulary's; the corpus is counted once."""
    counts = folder / "counts"
    with Tokenizer(options.verifier) as tokenizer:
        write_frequencies(counts, count_tokens(corpus, tokenizer))
    return {
        str(size): convert(
            options.drafter,
            options.verifier,
            folder / f"{size}.gguf",
            draft_vocab=size,
            frequencies=counts,
        )
        for size in sorted(options.sizes)
        if size < n_vocab
    }


def measure(
    llms: dict[str, Llama], prompts: Sequence[Prompt], options: argparse.Namespace
) -> Results:
    """Ask every drafter everything, the drafters by turns."""
    results: Results = {(name, width): [] for name in llms for width in options.widths}
    for llm in llms.values():
        ask(llm, render(llm, prompts[0]), 8, 0.0)  # to warm up
    for prompt in progress(prompts, "prompts"):
        for width in options.widths:
            for name, llm in llms.items():
                llm.width = width
                _, _, steps, _ = ask(llm, render(llm, prompt), options.tokens, 0.0)
                results[name, width].append(steps)
    return results


def print_tables(
    options: argparse.Namespace, reports: dict[str, ConvertReport], results: Results
) -> None:
    """Three tables: acceptance, drafts, tokens; in Markdown, for the documentation."""
    n_answers = len(results[WHOLE, options.widths[0]])
    print(
        f"llama-cpp-python {llama_cpp.__version__}, {options.threads} threads, {n_answers} answers "
        f"of at most {options.tokens} tokens\n"
    )
    print("| tokens kept | of the corpus | file, MB |")
    print("|---|---|---|")
    for name, report in reports.items():
        share = "" if report.coverage is None else f"{report.coverage:.2%}"
        print(f"| {name} | {share} | {report.n_bytes / 1e6:.1f} |")
    print_by_width(
        "acceptance length", options.widths, reports, lambda *at: f"{length(results, *at):.3f}"
    )
    for title, cost in (("draft", draft_seconds), ("token", token_seconds)):
        print_by_width(
            f"seconds a {title}, as a ratio",
            options.widths,
            reports,
            lambda name, width, cost=cost: f"{ratio(results, name, width, cost):.2f}",
        )


def print_by_width(
    title: str,
    widths: Sequence[int],
    names: Sequence[str] | dict[str, ConvertReport],
    cell: Callable[[str, int], str],
) -> None:
    """A row for each drafter, a column for each width."""
    print(f"\n| {title} | " + " | ".join(f"width {width}" for width in widths) + " |")
    print("|---" * (1 + len(widths)) + "|")
    for name in names:
        print(f"| {name} | " + " | ".join(cell(name, width) for width in widths) + " |")


def length(results: Results, name: str, width: int) -> float:
    """Tokens a verify step, over all answers."""
    return acceptance_length([step for steps in results[name, width] for step in steps]) or 0.0


def ratio(
    results: Results, name: str, width: int, cost: Callable[[Sequence[Step]], float]
) -> float:
    """A cost against that of the whole vocabulary, answer by answer; the median."""
    pairs = zip(results[name, width], results[WHOLE, width], strict=True)
    return median(cost(own) / cost(whole) for own, whole in pairs)


def draft_seconds(steps: Sequence[Step]) -> float:
    """Of a draft, the median."""
    return part_medians(steps)["draft"]


def token_seconds(steps: Sequence[Step]) -> float:
    """Of a token: the median step by the tokens it emits."""
    emitted = sum(step.n_emitted for step in steps) / len(steps)
    return median(sum(step.seconds.values()) for step in steps) / emitted


def progress(prompts: Sequence[Prompt], what: str) -> Iterable[Prompt]:
    """The prompts, with a bar on standard error."""
    return track(prompts, what, console=Console(stderr=True), transient=True)


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--drafter", type=Path, default=DEMO_CHECKPOINT, help="a checkpoint")
    parser.add_argument("--verifier", type=Path, help="its GGUF (default: the demo's)")
    parser.add_argument("--corpus", type=Path, help="text like the verifier's answers")
    parser.add_argument("--sizes", type=int, nargs="+", default=[4096, 8192, 16384, 32768])
    parser.add_argument("--widths", type=int, nargs="+", default=[1, 2, 4, 7])
    parser.add_argument("--prompts", type=int, default=1, help="of each category")
    parser.add_argument("--tokens", type=int, default=64, help="of an answer, at most")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    try:
        options.verifier = options.verifier or demo_pair.verifier()
        run(options)
    except (DFlashError, OSError) as error:
        print(f"draft_vocab.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

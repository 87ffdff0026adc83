"""The options of ``dflash-local bench``, checked before anything loads."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

from dflash_local.bench.places import LONG
from dflash_local.bench.record import ADAPTIVE
from dflash_local.bench.runner import BenchOptions
from dflash_local.bench.suite import SUITES
from dflash_local.cli.cores import physical_cores
from dflash_local.cli.endpoints import RPC_HELP, endpoints
from dflash_local.cli.numbers import natural, non_negative, positive
from dflash_local.cli.recording import RECORD_HELP
from dflash_local.files.model_header import DEFAULT_N_CTX


@dataclass(frozen=True)
class Arguments:
    """What the command line says. No verifier: the demo pair."""

    out: Path
    verifier: str | None = None
    drafter: str | None = None
    prompts: Path | None = None
    suite: str = "default"
    per_category: int | None = None
    max_tokens: int = BenchOptions.max_tokens
    temperature: float = BenchOptions.temperature
    widths: tuple[int | None, ...] | None = None
    repeat: int = BenchOptions.repeat
    n_ctx: int | None = None
    threads: int = field(default_factory=physical_cores)
    gpu_layers: int | None = BenchOptions.gpu_layers
    rpc: tuple[str, ...] = ()
    seed: int = BenchOptions.seed
    kv_f32: bool = False
    long_answers: int = BenchOptions.long_answers
    exact: bool = False
    compare: Path | None = None
    csv: Path | None = None
    record: Path | None = None


def parse(argv: list[str]) -> Arguments:
    """The arguments in ``argv``; a mistake in them ends the program with status 2."""
    parser = argparse.ArgumentParser(
        prog="dflash-local bench",
        argument_default=argparse.SUPPRESS,
        description="Measure a verifier with and without its drafter: stock llama_cpp.Llama and "
        "every width take turns, prompt by prompt. Without --verifier: the demo pair. Writes "
        "report.md, report.json, records.jsonl and pictures to a folder.",
    )
    _add_what(parser.add_argument_group("what is measured"))
    _add_how(parser.add_argument_group("how it is decoded"))
    _add_output(parser.add_argument_group("output"))
    arguments = Arguments(**vars(parser.parse_args(argv)))
    if arguments.out.exists() and not arguments.out.is_dir():
        parser.error(f"--out: {arguments.out} is a file, expected a folder")
    return arguments


def _add_what(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    verifier = "the model that answers: a file, owner/repo[:quant], or a name of `models`"
    add("--verifier", metavar="V.gguf", help=verifier)
    drafter = 'a DFlash drafter made for it, likewise, or "auto" to find one'
    add("--drafter", metavar="D.gguf", help=drafter)
    own = (
        'a JSON object a line, with "messages" or "prompt"; "id", "category", "answer" if you like'
    )
    prompts = group.add_mutually_exclusive_group()
    prompts.add_argument("--prompts", type=Path, metavar="FILE.jsonl", help=own)
    prompts.add_argument("--suite", choices=sorted(SUITES), help="prompts of this package")
    few = "only the first N prompts of each category"
    add("--per-category", type=positive, metavar="N", help=few)
    widths = (
        f"drafts a step, each of them in turn; 0 drafts nothing, {ADAPTIVE} decides step by step "
        f"(default: 0,1,2,4, the largest and {ADAPTIVE})"
    )
    add("--widths", type=_widths, metavar=f"0,2,{ADAPTIVE}", help=widths)
    rounds = f"rounds over all prompts (default {Arguments.repeat}; one tells nothing of the noise)"
    add("--repeat", type=positive, metavar="N", help=rounds)
    at_length = f"N prompts are answered at length as well, {LONG:,} tokens each (default none)"
    add("--long-answers", type=natural, metavar="N", help=at_length)


def _add_how(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    length = f"of an answer at most (default {Arguments.max_tokens})"
    add("--max-tokens", type=_at_least_two, metavar="N", help=length)
    add("--temperature", type=non_negative, metavar="T", help="0 is greedy (default 0)")
    add("--seed", type=natural, metavar="N", help=f"of the sampler (default {Arguments.seed})")
    context = f"tokens of context (default {DEFAULT_N_CTX}, less if it was trained on less)"
    add("--n-ctx", type=positive, metavar="N", help=context)
    add("--threads", type=positive, metavar="N", help="CPU threads (default: the physical cores)")
    layers = "the verifier's layers on devices, -1 for all (default 0; with --rpc all)"
    add("--gpu-layers", type=int, metavar="N", help=layers)
    add("--rpc", type=endpoints, metavar="HOST:PORT,...", help=RPC_HELP)
    add("--kv-f32", action="store_true", help="K/V cache in F32 instead of F16")
    exact = "flash attention; adaptive widths verify only exact widths (docs/exact.md)"
    add("--exact", action="store_true", help=exact)


def _add_output(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--out", type=Path, metavar="DIR", required=True, help="the folder of the report")
    older = "tell what changed beyond noise against an older report.json"
    add("--compare", type=Path, metavar="OLD.json", help=older)
    add("--csv", type=Path, metavar="DIR", help="keep the medians in this machine's file in DIR")
    add("--record", type=Path, metavar="FOLDER", help=RECORD_HELP)


def _widths(text: str) -> tuple[int | None, ...]:
    return tuple(_width(part.strip()) for part in text.split(","))


def _width(text: str) -> int | None:
    if text == ADAPTIVE:
        return None
    try:
        return natural(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, nor {ADAPTIVE!r}") from error


def _at_least_two(text: str) -> int:
    # The first token belongs to the prompt: one token has no speed.
    number = positive(text)
    if number < 2:
        raise argparse.ArgumentTypeError("a speed needs at least 2 tokens")
    return number

"""The options of ``benchmarks/peers.py``: defaults in one place, checked before anything loads."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dflash_local.bench.suite import SUITES
from dflash_local.cli.cores import physical_cores
from dflash_local.cli.numbers import positive

from .weights import AS_IS, FILE_TYPES

PEERS = ("xllamacpp", "torch")
NO_PEERS = "none"
DEMO_WEIGHTS = ("BF16", "Q8_0", "Q4_0", "Q4_1")
#: What --quick changes, for 11 minutes on two cores. The time is shared among the weights.
QUICK = {
    "n_prompts": 5,
    "max_tokens": 48,
    "widths": (1, 2, 3, 5, 7),
    "n_max": (1, 2, 3, 5, 7),
    "minutes": 10.0,
}


@dataclass(frozen=True)
class Options:
    """What the command line says. No verifier: the demo pair."""

    verifier: Path | None = None
    drafter: Path | None = None
    weights: tuple[str, ...] = ()  # (): DEMO_WEIGHTS, or the user's own file as it is
    prompts: Path = SUITES["default"]
    n_prompts: int = 10
    max_tokens: int = 128
    rounds: int = 3
    minutes: float | None = None
    widths: tuple[int, ...] = ()  # (): all the drafter gives
    n_max: tuple[int, ...] = ()  # the same, for upstream
    threads: int = field(default_factory=physical_cores)
    gpu_layers: int = 0
    flash_attn: str = "default"
    peers: tuple[str, ...] = PEERS
    torch_drafter: Path | None = None
    torch_python: str | None = None
    torch_dtype: str = "bfloat16"
    eagle3: Path | None = None
    mtp: bool = False
    json: Path | None = None
    csv: Path | None = None


def parse(argv: list[str]) -> Options:
    """The options in ``argv``; a mistake in them ends the program with status 2."""
    parser = _parser()
    given = vars(parser.parse_args(argv))
    quick = given.pop("quick")
    if quick and given.get("verifier"):
        given.setdefault("weights", (AS_IS,))
    options = Options(**({**QUICK, **given} if quick else given))
    problem = _problem(options)
    if problem:
        parser.error(problem)
    return options


def _problem(options: Options) -> str | None:
    if (options.verifier is None) != (options.drafter is None):
        return "--verifier and --drafter belong together: give both, or none for the demo pair"
    models = [options.verifier, options.drafter, options.eagle3]
    for file in [path for path in models if path is not None]:
        if not file.is_file():
            return f"{file} is no file"
    if options.torch_drafter is not None and not options.torch_drafter.is_dir():
        return f"--torch-drafter: {options.torch_drafter} is no folder"
    for file in [path for path in (options.json, options.csv) if path is not None]:
        if file.is_dir() or not file.absolute().parent.is_dir():
            return f"{file} is a folder, or in a folder that does not exist"
    if options.max_tokens < 2:
        return "--max-tokens: the first token is no decoding, so at least 2"
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks/peers.py",
        argument_default=argparse.SUPPRESS,
        description="DFlash here against its peers on the same files, prompts and threads, "
        "greedy: stock llama_cpp, upstream's draft-dflash in xllamacpp, z-lab's torch reference. "
        "Rounds are interleaved; each engine's speed-up is over its own plain decoding.",
    )
    _add_models(parser.add_argument_group("models"))
    _add_amount(parser.add_argument_group("how much"))
    _add_engines(parser.add_argument_group("engines"))
    output = parser.add_argument_group("output, beside the table")
    output.add_argument("--json", type=Path, metavar="FILE", help="rows and every single answer")
    output.add_argument("--csv", type=Path, metavar="FILE", help="rows, with hardware and versions")
    return parser


def _add_models(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--verifier", type=Path, metavar="V.gguf", help="the model that answers (default: demo)")
    add("--drafter", type=Path, metavar="D.gguf", help="a DFlash drafter made for it")
    names = [*FILE_TYPES, AS_IS]
    weights = (
        f"of the verifier, made by llama_cpp's quantiser: {', '.join(names)} (default: "
        f"{','.join(DEMO_WEIGHTS)} of the demo, a verifier of your own {AS_IS})"
    )
    add("--weights", type=_among(names), metavar="LIST", help=weights)
    eagle3 = "an EAGLE-3 drafter (GGUF) of the same verifier, for upstream's draft-eagle3"
    add("--eagle3", type=Path, metavar="FILE", help=eagle3)
    add("--mtp", action="store_true", help="also upstream's draft-mtp, if the verifier has heads")


def _add_amount(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--quick",
        action="store_true",
        default=False,
        help=f"about {QUICK['minutes']:.0f} minutes: {QUICK['n_prompts']} prompts of "
        f"{QUICK['max_tokens']} tokens, fewer widths, as many rounds as there is time for",
    )
    add("--prompts", type=Path, metavar="FILE.jsonl", help="default: the suite of this package")
    n_prompts = f"the first of them, categories in turn (default {Options.n_prompts})"
    add("--n-prompts", type=positive, metavar="N", help=n_prompts)
    add("--max-tokens", type=positive, metavar="N", help=f"default {Options.max_tokens}")
    add("--rounds", type=positive, metavar="N", help=f"default {Options.rounds}")
    minutes = "begin no pass after that many, shared among the weights"
    add("--minutes", type=float, metavar="N", help=minutes)


def _add_engines(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    peers = f"beside stock llama_cpp and ours; {NO_PEERS} for none (default {','.join(PEERS)})"
    add("--peers", type=_among([*PEERS, NO_PEERS]), metavar="LIST", help=peers)
    add("--widths", type=_widths, metavar="LIST", help="ours (default: all of 1 to the block's)")
    add("--n-max", type=_widths, metavar="LIST", help="upstream's (default: the same, swept)")
    add("--threads", type=positive, metavar="N", help="default: the physical cores")
    add("--gpu-layers", type=int, metavar="N", help="default 0; -1 for all")
    flash = "default: what each engine does by itself (upstream decides, llama_cpp has it off)"
    add("--flash-attn", choices=("default", "on", "off"), help=flash)
    checkpoint = "the drafter as config.json and model.safetensors (default: the demo's)"
    add("--torch-drafter", type=Path, metavar="DIR", help=checkpoint)
    python = "an interpreter that has torch, transformers and dflash (default: this one)"
    add("--torch-python", metavar="PATH", help=python)
    add("--torch-dtype", choices=("bfloat16", "float32"), help=f"default {Options.torch_dtype}")


def _among(names: list[str]) -> Callable[[str], tuple[str, ...]]:
    def parse_names(text: str) -> tuple[str, ...]:
        by_lower = {name.lower(): name for name in names}
        found = [by_lower.get(part.strip().lower()) for part in text.split(",")]
        if not all(found):
            raise argparse.ArgumentTypeError(f"{text!r}: expected some of {','.join(names)}")
        return tuple(dict.fromkeys(name for name in found if name))

    return parse_names


def _widths(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 0 < int(part) < 1 << 16 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r}: expected whole numbers from 1, like 1,2,4")
    return tuple(sorted({int(part) for part in parts}))

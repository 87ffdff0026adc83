"""The options of ``dflash-local chat``: defaults in one place, checked before anything loads."""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass, field
from pathlib import Path

from dflash_local.cli.cores import physical_cores
from dflash_local.cli.endpoints import RPC_HELP, endpoints
from dflash_local.cli.numbers import natural, non_negative, positive
from dflash_local.cli.recording import RECORD_HELP
from dflash_local.files.model_header import DEFAULT_N_CTX
from dflash_local.runtime.llama import SAMPLING


@dataclass(frozen=True)
class ChatOptions:
    """What the command line says. No verifier: the demo pair."""

    verifier: str | None = None  # a path or a name, see dflash_local.load
    drafter: str | None = None  # likewise; None: "auto"
    width: int | None = None  # None: adaptive, decided step by step
    plain: bool = False
    exact: bool = False
    n_ctx: int | None = None  # None: DEFAULT_N_CTX, or less where the model was trained on less
    threads: int = field(default_factory=physical_cores)
    gpu_layers: int | None = None  # None: 0, or all of them with --rpc
    rpc: tuple[str, ...] = ()
    prompt: str | None = None
    system: str | None = None
    # Greedy accepts most: a draft is kept where it equals the verifier's choice, and the drafter
    # guesses the verifier's likeliest token.
    temperature: float = 0.0
    sampling: str = "exact"
    max_tokens: int = 512
    # llama_cpp's own default is a constant, with which every run would say the same.
    seed: int = field(default_factory=lambda: random.getrandbits(31))
    stats_json: Path | None = None
    record: Path | None = None


def parse(argv: list[str]) -> ChatOptions:
    """The options in ``argv``; a mistake in them ends the program with status 2."""
    parser = _parser()
    options = ChatOptions(**vars(parser.parse_args(argv)))
    if options.prompt is not None and not options.prompt.strip():
        parser.error("-p: the prompt is empty")
    if options.plain and (options.width or options.drafter):
        parser.error("--plain drafts nothing: leave out --drafter and --width")
    file = options.stats_json
    if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
        parser.error(f"--stats-json: {file} is a folder, or in a folder that does not exist")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dflash-local chat",
        argument_default=argparse.SUPPRESS,
        description="Talk to a model, drafting with DFlash. Without --verifier: SmolLM2-135M and "
        "the drafter in this package. Piped input is one question; piped output is the answer.",
    )
    models = parser.add_argument_group("models")
    add_models(models)
    models.add_argument("--plain", action="store_true", help="no drafter: plain decoding")
    models.add_argument("--rpc", type=endpoints, metavar="HOST:PORT,...", help=RPC_HELP)
    _add_answers(parser.add_argument_group("answers"))
    return parser


def add_models(group: argparse._ArgumentGroup) -> None:
    """The options that say which models are loaded, and how."""
    add = group.add_argument
    verifier = "the model that answers: a file, owner/repo[:quant], or a name of `models`"
    add("--verifier", metavar="V.gguf", help=verifier)
    drafter = 'a DFlash drafter made for it, likewise; "auto", the default, finds one'
    add("--drafter", metavar="D.gguf", help=drafter)
    width = "tokens drafted a step, 0 for none (default: decided step by step, for the most speed)"
    add("--width", type=natural, metavar="N", help=width)
    exact = "verify only widths that give plain decoding's logits to the bit (docs/exact.md)"
    add("--exact", action="store_true", help=exact)
    context = f"tokens of context (default {DEFAULT_N_CTX}, less if it was trained on less)"
    add("--n-ctx", type=positive, metavar="N", help=context)
    threads = "CPU threads (default: the physical cores)"
    add("--threads", type=positive, metavar="N", help=threads)
    layers = "the verifier's layers on devices, -1 for all (default 0; with --rpc all)"
    add("--gpu-layers", type=int, metavar="N", help=layers)


def _add_answers(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("-p", "--prompt", metavar="TEXT", help="answer this and exit")
    add("--system", metavar="TEXT", help="the system message")
    temperature = "0 takes the likeliest token, which accepts most drafts (default 0)"
    add("--temperature", type=non_negative, metavar="T", help=temperature)
    sampling = "above temperature 0: plain decoding's tokens, or others as likely (default %s)"
    add("--sampling", choices=SAMPLING, help=sampling % ChatOptions.sampling)
    length = f"of one answer; 0: to the context's end (default {ChatOptions.max_tokens})"
    add("--max-tokens", type=natural, metavar="N", help=length)
    add("--seed", type=natural, metavar="N", help="of the sampler (default: another each time)")
    statistics = "write the statistics of the last answer there"
    add("--stats-json", type=Path, metavar="FILE", help=statistics)
    add("--record", type=Path, metavar="FOLDER", help=RECORD_HELP)

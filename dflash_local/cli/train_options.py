"""The options of ``dflash-local train``, checked before anything loads."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dflash_local.cli.cores import physical_cores
from dflash_local.cli.numbers import natural, non_negative, positive
from dflash_local.hf_hub import is_repository_id
from dflash_local.train.options import Data, FitOptions, TrainOptions

_VERIFIER = "a GGUF file; or, by transformers, a folder or an id (owner/name) of Hugging Face's"
STEPS = ("prompts", "generate", "fit", "simulate", "export")


@dataclass(frozen=True)
class Arguments:
    """What the command line says; what it does not say is missing in the dictionaries."""

    step: str | None
    verifier: Path
    out: Path
    data: dict[str, Any] = field(default_factory=dict)
    shape: dict[str, Any] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)


# Where an option belongs: its name, the group, the name in the group's dataclass.
_DATA = {
    "prompts": "prompts",
    "synthesize": "synthesize",
    "as_is": "as_is",
    "tokens": "tokens",
    "endpoint": "endpoint",
    "thinking": "thinking",
    "held_out": "held_out",
    "max_tokens": "max_tokens",
    "max_length": "max_length",
    "temperatures": "temperatures",
    "at_once": "at_once",
    "most_refused": "most_refused",
}
_SHAPE = {
    "layers": "layers",
    "block": "block",
    "target_layers": "target_layers",
    "mask_token": "mask_token",
    "init": "init",
    "cold": "cold",
}
_FIT = {
    "steps": "steps",
    "batch_size": "batch_size",
    "blocks": "n_blocks",
    "learning_rate": "learning_rate",
    "noise": "noise",
    "soft": "soft",
    "decay": "decay",
    "seed": "seed",
    "evaluate_every": "evaluate_every",
    "patience": "patience",
}


def parse(argv: list[str]) -> Arguments:
    """The arguments in ``argv``; a mistake in them ends the program with status 2."""
    parser = argparse.ArgumentParser(
        prog="dflash-local train",
        argument_default=argparse.SUPPRESS,
        description="Train a drafter for a verifier, on its own answers to your prompts. Goes "
        "on where it was when it is started again. With a step's name only that step is done.",
    )
    parser.add_argument("step", nargs="?", choices=STEPS, default=None, help="default: all of them")
    parser.add_argument("--verifier", type=Path, required=True, metavar="V", help=_VERIFIER)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of the drafter"
    )
    _add_data(parser.add_argument_group("what it is trained on"))
    _add_shape(parser.add_argument_group("the drafter"))
    _add_fit(parser.add_argument_group("training"))
    _add_run(parser.add_argument_group("running"))
    given = vars(parser.parse_args(argv))
    top = {name: given.pop(name) for name in ("step", "verifier", "out")}
    groups = [
        {own: given.pop(name) for name, own in names.items() if name in given}
        for names in (_DATA, _SHAPE, _FIT)
    ]
    given.setdefault("threads", physical_cores())
    arguments = Arguments(**top, data=groups[0], shape=groups[1], fit=groups[2], run=given)
    problem = _problem(arguments)
    if problem:
        parser.error(problem)
    return arguments


def _problem(arguments: Arguments) -> str | None:
    data = arguments.data
    verifier, gguf = arguments.verifier, arguments.run.get("gguf")
    files = [gguf, data.get("prompts"), *data.get("tokens", ())]
    for path in files:
        if path is not None and not path.is_file():
            return f"{path} is no file"
    if not (verifier.exists() or _is_id(verifier)):
        return f"--verifier: {verifier} is no file, no folder and no Hugging Face id (owner/name)"
    if gguf is not None and verifier.is_file():
        return "--gguf: only beside a Hugging Face verifier, and --verifier is a file"
    init = arguments.shape.get("init")
    if init is not None and not (init / "config.json").is_file():
        return f"--init: {init} has no config.json: expected a drafter in the published layout"
    if arguments.out.exists() and not arguments.out.is_dir():
        return f"--out: {arguments.out} is a file, expected a folder"
    if not 0 < data.get("held_out", Data.held_out) < 1:
        return "--held-out: expected a share between 0 and 1"
    if not 0 <= arguments.fit.get("soft", FitOptions.soft) <= 1:
        return "--soft: expected a share from 0 to 1"
    if arguments.fit.get("decay", 1.0) == 0:
        return "--decay: expected a number above 0"
    return None


def _is_id(verifier: Path) -> bool:
    return verifier.suffix != ".gguf" and is_repository_id(verifier.as_posix())


def _add_data(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    prompts = 'a line each: {"messages": [...]}, ShareGPT, Alpaca, {"prompt": "..."}, plain text'
    add("--prompts", type=Path, metavar="FILE.jsonl", help=prompts)
    add("--synthesize", type=natural, metavar="N", help="user turns that the verifier makes up")
    add("--as-is", action="store_true", help="train on the answers in the prompts as they are")
    tokens = 'conversations as tokens, a line each: {"tokens": [...], "start": N}'
    add("--tokens", type=Path, nargs="+", metavar="FILE", help=tokens)
    server = "a server of the same model that answers instead, such as http://localhost:8080/v1"
    add("--endpoint", metavar="URL", help=server)
    switch = "the chat template's switch for thinking (default: the template's own)"
    add("--thinking", type=_on_off, metavar="on|off", help=switch)
    aside = f"never trained on (default {_percent(Data.held_out)})"
    add("--held-out", type=_share, metavar="SHARE", help=aside)
    add("--max-tokens", type=positive, metavar="N", help="of an answer")
    add("--max-length", type=positive, metavar="N", help="tokens of a conversation")
    add("--temperatures", type=_numbers, metavar="T,T", help="answers take them in turn")
    add("--at-once", type=positive, metavar="N", help="answers in one batch")
    refused = (
        "of the rows may be left out because they cannot be used "
        f"(default {_percent(Data.most_refused)})"
    )
    add("--most-refused", type=_share, metavar="SHARE", help=refused)


def _add_shape(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--layers", type=positive, metavar="N")
    add("--block", type=positive, metavar="N", help="tokens of a block, the anchor among them")
    add("--target-layers", type=_integers, metavar="I,J,...", help="outputs of them are read")
    add("--mask-token", type=natural, metavar="ID")
    add("--init", type=Path, metavar="DIR", help="go on from a drafter in the published layout")
    add("--cold", action="store_true", help="begin with random weights")


def _add_fit(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--steps", type=positive, metavar="N")
    add("--batch-size", type=positive, metavar="N", help="texts an update, of all processes")
    add("--blocks", type=positive, metavar="N", help="random blocks a text")
    add("--learning-rate", type=non_negative, metavar="X")
    add("--noise", type=non_negative, metavar="X", help="on features")
    add("--soft", type=non_negative, metavar="SHARE", help="of the loss over probabilities")
    add("--decay", type=non_negative, metavar="X", help="position weights exp(-k/X), not D-PACE")
    add("--seed", type=natural, metavar="N")
    add("--evaluate-every", type=positive, metavar="STEPS")
    add("--patience", type=positive, metavar="N", help="looks without a better one")


def _add_run(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--threads", type=positive, metavar="N", help="CPU threads (default: the physical cores)")
    add("--gpu-layers", type=int, metavar="N", help="of the verifier, -1 for all")
    add("--cache-gb", type=non_negative, metavar="X", help="disk for features, at most")
    gguf = "a Hugging Face verifier as GGUF too: makes drafter.gguf and tries it in the real loop"
    add("--gguf", type=Path, metavar="V.gguf", help=gguf)
    add("--outtype", metavar="TYPE", help=f"of the GGUF (default {TrainOptions.outtype})")
    vocabulary = "tokens that the GGUF can propose: those of the texts if not said otherwise, the "
    vocabulary += "N most frequent ones of the answers, or all"
    add("--draft-vocab", type=_all_or_positive, metavar="N|all", help=vocabulary)
    add("--force", action="store_true", help="export although the simulation disagrees")


def _on_off(text: str) -> bool:
    if text not in ("on", "off"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected on or off")
    return text == "on"


def _share(text: str) -> float:
    """ "5%" or "0.05"."""
    number = non_negative(text.removesuffix("%"))
    share = number / 100 if text.endswith("%") else number
    if share > 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a share such as 5% or 0.05")
    return share


def _percent(share: float) -> str:
    return f"{100 * share:g}%%"  # argparse formats help texts


def _all_or_positive(text: str) -> int | str:
    if text == "all":
        return text
    try:
        return positive(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; nor is it `all`") from error


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(non_negative(part) for part in text.split(","))


def _integers(text: str) -> tuple[int, ...]:
    return tuple(natural(part) for part in text.split(","))

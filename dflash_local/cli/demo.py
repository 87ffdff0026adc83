"""``dflash-local demo``: the same prompts, plain and drafting, on one screen."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import dflash_local
from dflash_local.cli.interrupts import INTERRUPTED, interrupts
from dflash_local.cli.loading import find_both, load
from dflash_local.cli.numbers import positive
from dflash_local.cli.options import ChatOptions, add_models
from dflash_local.cli.race import Runner, Tally, agreement, race
from dflash_local.cli.race_screen import RaceScreen, open_race_screen, save_picture
from dflash_local.cli.warned import warnings_on_stderr
from dflash_local.errors import DFlashError, ModelError
from dflash_local.machine.busy import BusyWatch

#: Of the workload, the first ones behind the thousand that its drafter was trained on.
PROMPTS = (
    "Write a Python class named Train with subject and status, and a __str__ method.",
    "Write a Python class named Vehicle with the attributes genre, category and title.",
    "Write a Python class named Comment with country, width and speed, and a __str__ method.",
)
#: As long as the answers that it was trained on.
MAX_TOKENS = 160

_DRAFTER = Path("drafters", "smollm2-135m-python-classes", "drafter.gguf")


@dataclass(frozen=True)
class DemoOptions:
    """What the command line says."""

    models: ChatOptions
    prompts: tuple[str, ...] = PROMPTS
    max_tokens: int = MAX_TOKENS
    svg: Path | None = None


def main(argv: list[str]) -> int:
    """Run the subcommand; returns the exit status."""
    options = parse(argv)
    try:
        with warnings_on_stderr("demo"), BusyWatch(options.models.threads):
            _demo(options, open_race_screen())
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has left; Python must not flush it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (DFlashError, OSError, RuntimeError, ValueError) as error:
        print(f"dflash-local demo: {error}", file=sys.stderr)
        return 1
    return 0


def parse(argv: list[str]) -> DemoOptions:
    """The options in ``argv``; a mistake in them ends the program with status 2."""
    parser = argparse.ArgumentParser(
        prog="dflash-local demo",
        argument_default=argparse.SUPPRESS,
        description="The same prompts, plain above and drafting below, each on its own clock. "
        "Without models: SmolLM2-135M and the drafter of a workload, with prompts of that "
        "workload that it was not trained on. The verifier is loaded twice.",
    )
    add_models(parser.add_argument_group("models"))
    add = parser.add_argument_group("demo").add_argument
    add("-p", "--prompt", dest="prompts", action="append", metavar="TEXT", help="ask this instead")
    length = f"of an answer (default {MAX_TOKENS})"
    add("--max-tokens", type=positive, metavar="N", help=length)
    add("--svg", type=Path, metavar="FILE", help="write the last screen there as a picture")
    said = vars(parser.parse_args(argv))
    if "verifier" in said and "drafter" not in said:
        parser.error("--drafter is missing: give both models, or none for the demo pair")
    svg = said.get("svg")
    if svg is not None and (svg.is_dir() or not svg.absolute().parent.is_dir()):
        parser.error(f"--svg: {svg} is a folder, or in a folder that does not exist")
    own = {name: said.pop(name) for name in ("max_tokens", "svg") if name in said}
    prompts = tuple(said.pop("prompts", PROMPTS))
    return DemoOptions(ChatOptions(**said), prompts, **own)


def workload_drafter() -> Path:
    """The drafter of the workload, in the checkout that this package is run from.

    The package leaves it out: it would be a second file of 29 MB in every wheel.

    Raises:
        ModelError: this is no checkout.
    """
    file = Path(dflash_local.__file__).parent.parent / _DRAFTER
    if not file.is_file():
        raise ModelError(
            f"the drafter of the demo, {_DRAFTER.as_posix()}, comes with the sources of "
            "dflash-local and not with its package: run `make demo` there, or give models of your "
            "own (--verifier, --drafter)"
        )
    return file


def _demo(options: DemoOptions, screen: RaceScreen) -> None:
    with contextlib.ExitStack() as stack:
        with interrupts.held():
            models = options.models
            verifier, drafter = find_both(models.verifier, models.drafter, workload_drafter)
            setup = _setup(verifier, drafter, options.models.threads)
            screen.say(setup)
            plain, drafting = (
                stack.enter_context(contextlib.closing(load(options.models, (verifier, it))))
                for it in (None, drafter)
            )
        runners = Runner("plain", plain), Runner("drafting", drafting)
        _run(options, setup, screen, runners)


def _setup(verifier: Path, drafter: Path, n_threads: int) -> str:
    threads = "1 thread" if n_threads == 1 else f"{n_threads} threads"
    return f"{verifier.name} · {drafter.parent.name}/{drafter.name} · {threads}"


def _run(
    options: DemoOptions, setup: str, screen: RaceScreen, runners: tuple[Runner, Runner]
) -> None:
    plain, drafting = runners
    totals = Tally(), Tally()
    for prompt in options.prompts:
        interrupts.check()
        with screen.showing(prompt, runners) as show:
            for runner in runners:
                runner.begin(prompt, options.max_tokens)
            race(runners, show)
        for runner, total in zip(runners, totals, strict=True):
            total.add(runner.tally)
        said = f"{verdict(plain.tally, drafting.tally)}; {agreement(plain, drafting)}"
        screen.say(said)
        if options.svg is not None:
            save_picture(options.svg, prompt, runners, (setup, said))
    if len(options.prompts) > 1:
        screen.say(f"{len(options.prompts)} prompts: {verdict(*totals)}")


def verdict(plain: Tally, drafting: Tally) -> str:
    """The ratio of the two, in words."""
    if not plain.seconds or not drafting.seconds:
        return "the answers ended at once"
    return f"drafting {drafting.tokens_per_second / plain.tokens_per_second:.2f} times as fast"

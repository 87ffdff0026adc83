"""Runs every condition and prints the tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

import llama_cpp

from dflash_local import Llama
from dflash_local.bench.machine import name as machine_name
from dflash_local.files import demo_pair
from dflash_local.runtime.rendering import render_chat

from .compare import ADAPTIVE, PLAIN, Compared, Setup, compare, fixed
from .condition import Condition

DRAFTERS = Path(__file__).resolve().parents[2] / "drafters"


def run(conditions: Sequence[Condition], setup: Setup, asked: Sequence[str]) -> None:
    """Answers the questions in each condition and prints what that gave."""
    with Llama(setup.verifier, vocab_only=True) as llm:
        chats = ([{"role": "user", "content": text}] for text in asked)
        prompts = [render_chat(llm, chat).tokens for chat in chats]
    print(
        f"{machine_name()}, llama-cpp-python {llama_cpp.__version__}, {setup.threads} threads, "
        f"{setup.verifier.name}, {setup.drafter.parent.name}/{setup.drafter.name}, "
        f"{len(prompts)} answers of {setup.max_tokens} tokens"
    )
    print("Tokens a second from the second answer on; others: the processors that they had.\n")
    found = {}
    _print_row(_head(setup))
    print(f"|---|{'---:|' * (len(_head(setup)) - 1)}")
    for condition in conditions:
        found[condition.name] = compare(condition, setup, prompts)
        _print_row(_cells(condition.name, found[condition.name], setup))
    for name, compared in found.items():
        best = min(map(fixed, setup.widths), key=compared.seconds_a_token)
        print(f"\n{name}, by answer:")
        _print_by_answer(compared, PLAIN)
        _print_by_answer(compared, best)


def default_setup(widths: Sequence[int], threads: int, max_tokens: int) -> Setup:
    """The demo's verifier and the drafter of the workload."""
    drafter = DRAFTERS / "smollm2-135m-python-classes" / "drafter.gguf"
    return Setup(demo_pair.verifier(), drafter, tuple(widths), threads, max_tokens)


def _head(setup: Setup) -> list[str]:
    engines = [PLAIN, *map(fixed, setup.widths), ADAPTIVE]
    return ["condition", *engines, "over the best width", "over plain", "others"]


def _cells(condition: str, compared: Compared, setup: Setup) -> list[str]:
    seconds = {engine: compared.seconds_a_token(engine) for engine in compared.answers}
    widths = list(map(fixed, setup.widths))
    speeds = [f"{1 / seconds[engine]:.1f}" for engine in (PLAIN, *widths, ADAPTIVE)]
    best = min(seconds[width] for width in widths) / seconds[ADAPTIVE]
    plain = seconds[PLAIN] / seconds[ADAPTIVE]
    return [condition, *speeds, f"{best:.2f}", f"{plain:.2f}", f"{compared.others:.2f}"]


def _print_row(cells: Sequence[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def _print_by_answer(compared: Compared, engine: str) -> None:
    pairs = zip(compared.answers[engine], compared.answers[ADAPTIVE], strict=True)
    ratios = [theirs.seconds_a_token / ours.seconds_a_token for theirs, ours in pairs]
    listed = " ".join(f"{ratio:.2f}" for ratio in ratios)
    middle = median(ratios[1:] or ratios)
    print(f"  adaptive over {engine}: {listed}; median {middle:.2f}", flush=True)

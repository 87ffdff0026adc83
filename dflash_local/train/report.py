"""``report.json``, ``report.md``, ``training.png``: what was trained on what, and how it went."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .acceptance import Acceptance
from .account import lines_of
from .loop import Fitted
from .prepared import Prepared
from .simulation import NOT_TRIED, Simulation
from .verifiers.verifier import Identity

SCHEMA = 1
_NAMES = {"trained": "this drafter", "untrained": "before training", "ngram": "n-gram"}
_PACKAGES = ("dflash-local", "llama-cpp-python", "torch", "transformers")


#: Of the drafter ("trained"), of the one that it began as ("untrained"), of one without weights.
ByWidth = Mapping[str, Sequence[Acceptance]]


def write_report(
    ready: Prepared,
    fitted: Fitted,
    simulation: Simulation | None,
    by_width: ByWidth,
    n_proposed: int | None,
    command: str | None,
    folder: Path,
) -> None:
    """Writes the three files; the picture only where matplotlib is installed.

    See ``to_report``.
    """
    report = to_report(ready, fitted, simulation, by_width, n_proposed, command)
    text = json.dumps(report, indent=1)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    (folder / "report.md").write_text(to_markdown(report), encoding="utf-8")
    _draw(report, folder / "training.png")


def to_report(
    ready: Prepared,
    fitted: Fitted,
    simulation: Simulation | None,
    by_width: ByWidth,
    n_proposed: int | None,
    command: str | None,
) -> dict[str, Any]:
    """Plain values: provenance, texts, course and outcome of a training.

    Args:
        n_proposed: tokens that the GGUF's head has; None where there is no GGUF.
        command: that asked for the training; None: a program did.
    """
    options, texts, progress = ready.options, ready.texts, fitted.progress
    start = progress.log[0]
    best = next(entry for entry in progress.log if entry["step"] == progress.best_step)
    return {
        "schema": SCHEMA,
        "verifier": _verifier(ready.verifier.identity),
        "texts": {
            "train": len(texts.train),
            "held_out": len(texts.held_out),
            "train_tokens": sum(len(text.tokens) for text in texts.train),
            "asked": None if ready.asked is None else ready.asked.to_json(),
            "used": texts.used.to_json(),
            "answers": asdict(options.data)
            | {"prompts": _name(options.data.prompts)}
            | {"tokens": [path.name for path in options.data.tokens]},
        },
        "drafter": ready.fields,
        "draft_vocab": _draft_vocab(n_proposed, ready.verifier.weights.sizes.n_vocab),
        "fit": asdict(options.fit),
        "command": command,
        "versions": {name: _version(name) for name in _PACKAGES},
        "steps": progress.step,
        "best_step": progress.best_step,
        "start": start,
        "best": best,
        "simulation": None if simulation is None else asdict(simulation),
        "by_width": {name: [asdict(one) for one in all_] for name, all_ in by_width.items()},
        "log": progress.log,
    }


def to_markdown(report: dict[str, Any]) -> str:
    """The same, to be read."""
    by_width, texts, fit = report["by_width"], report["texts"], report["fit"]
    return "\n".join(
        [
            f"# A drafter for {report['verifier']['name']}",
            "",
            f"Held-out text, the verifier taken as greedy. {_in_the_real_loop(report)}.",
            "",
            "Acceptance length by width (drafts a block), computed in torch at the same anchors:",
            "",
            *_table(
                ["", *(str(one["width"]) for one in by_width["trained"])],
                [
                    [_NAMES[name], *(f"{1 + one['accepted']:.2f}" for one in by_width[name])]
                    for name in _NAMES
                ],
            ),
            "",
            "Share of the widest blocks in which at least so many drafts were accepted:",
            "",
            *_table(
                ["", *(str(k + 1) for k in range(by_width["trained"][-1]["width"]))],
                [
                    [_NAMES[name], *(f"{share:.0%}" for share in by_width[name][-1]["reached"])]
                    for name in _NAMES
                ],
            ),
            "",
            f"- {texts['train']} conversations ({texts['train_tokens']} tokens), "
            f"{texts['held_out']} held out",
            *(f"- {line}" for line in lines_of(texts["asked"], texts["used"])),
            f"- {report['steps']} steps of {fit['batch_size']} texts with {fit['n_blocks']} "
            f"blocks, the best at step {report['best_step']}",
            *_proposed(report["draft_vocab"]),
            f"- verifier {report['verifier']['file']}, {report['verifier']['fingerprint']}; chat "
            f"template {report['verifier']['chat_template']}",
            f"- {', '.join(f'{name} {number}' for name, number in report['versions'].items())}",
            "",
            *([f"    {report['command']}", ""] if report["command"] else []),
        ]
    )


def _in_the_real_loop(report: dict[str, Any]) -> str:
    real = report["simulation"]
    if real is None:
        return NOT_TRIED[0].upper() + NOT_TRIED[1:]
    return (
        f"In the real loop, at {real['n_blocks']} anchors: **{real['accepted']:.2f} drafts "
        f"accepted a block** (standard error {real['error']:.2f}), an acceptance length of "
        f"{1 + real['accepted']:.2f}"
    )


def _draft_vocab(n_proposed: int | None, n_all: int) -> dict[str, int] | None:
    return None if n_proposed is None else {"tokens": n_proposed, "of": n_all}


def _proposed(vocab: dict[str, int] | None) -> list[str]:
    if vocab is None:
        return []
    return [f"- drafter.gguf can propose {vocab['tokens']} of the verifier's {vocab['of']} tokens"]


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _verifier(identity: Identity) -> dict[str, Any]:
    template = identity.chat_template
    digest = hashlib.sha256(str(template).encode()).hexdigest()[:12]
    return asdict(identity) | {"chat_template": "none" if template is None else f"sha256 {digest}"}


def _name(path: Path | None) -> str | None:
    return None if path is None else path.name


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _draw(report: dict[str, Any], path: Path) -> None:
    try:
        new_figure = import_module("matplotlib.figure").Figure
    except ImportError:
        return  # the figures are in report.json
    log = report["log"]
    steps = [entry["step"] for entry in log]
    figure = new_figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, [entry["accepted"] for entry in log], color="#1f5fa8", lw=2)
    axes.axvline(report["best_step"], color="#9aa1a9", lw=1, ls=":")
    axes.set(xlabel="step", ylabel="drafts accepted a block, held-out text")
    accepted, before = report["best"]["accepted"], report["start"]["accepted"]
    axes.set_title(
        f"{accepted:.2f} drafts accepted a block after {report['best_step']} steps "
        f"(untrained {before:.2f})"
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)

"""``report.json``, ``report.md``, ``training.png``: what was trained on what, and how it went."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dflash_local import hub
from dflash_local.gguf_header import GGUFHeader

from .pipeline import Training
from .simulate import Simulation

SCHEMA = 1
_PACKAGES = ("dflash-local", "llama-cpp-python", "torch", "transformers")


def write_report(training: Training, simulation: Simulation, ngram: float, folder: Path) -> None:
    """Writes the three files; the picture only where matplotlib is installed."""
    report = to_report(training, simulation, ngram)
    text = json.dumps(report, indent=1)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    (folder / "report.md").write_text(to_markdown(report), encoding="utf-8")
    _draw(report, folder / "training.png")


def to_report(training: Training, simulation: Simulation, ngram: float) -> dict[str, Any]:
    """Plain values: provenance, texts, course and outcome of a training.

    Args:
        ngram: drafts a block that a drafter without weights gets accepted on the same text.
    """
    options, progress = training.options, training.fit.progress
    start = progress.log[0]
    best = next(entry for entry in progress.log if entry["step"] == progress.best_step)
    return {
        "schema": SCHEMA,
        "verifier": _verifier(options.verifier),
        "texts": {
            "train": len(training.train),
            "held_out": len(training.held_out),
            "train_tokens": sum(len(text.tokens) for text in training.train),
            "answers": asdict(options.data)
            | {"prompts": _name(options.data.prompts)}
            | {"tokens": [path.name for path in options.data.tokens]},
        },
        "drafter": training.fields,
        "fit": asdict(options.fit),
        "command": shlex.join(["dflash-local", *(Path(a).name for a in sys.argv[1:])]),
        "versions": {name: _version(name) for name in _PACKAGES},
        "steps": progress.step,
        "best_step": progress.best_step,
        "start": start,
        "best": best,
        "simulation": asdict(simulation),
        "ngram": ngram,
        "log": progress.log,
    }


def to_markdown(report: dict[str, Any]) -> str:
    """The same, to be read."""
    start, best, real = report["start"], report["best"], report["simulation"]
    width = len(best["per_position"])
    head = "| | drafts accepted a block | " + " | ".join(str(k + 1) for k in range(width)) + " |"
    rows = [
        _row(f"{_start_name(report)}, untrained", start["accepted"], start["per_position"]),
        _row(f"best, step {report['best_step']}", best["accepted"], best["per_position"]),
    ]
    texts, fit = report["texts"], report["fit"]
    return "\n".join(
        [
            f"# A drafter for {report['verifier']['name']}",
            "",
            f"Held-out text, the verifier taken as greedy. In the real loop, at {real['n_blocks']} "
            f"anchors: **{real['accepted']:.2f} drafts accepted a block** (standard error "
            f"{real['error']:.2f}), an acceptance length of {1 + real['accepted']:.2f}. Repeating "
            f"what followed the same words before (n-gram) would get {report['ngram']:.2f}.",
            "",
            head,
            "|---|---:|" + "---:|" * width,
            *rows,
            "",
            "The columns by position: how often a draft is the verifier's best token, each "
            "position judged alone.",
            "",
            f"- {texts['train']} conversations ({texts['train_tokens']} tokens), "
            f"{texts['held_out']} held out",
            f"- {report['steps']} steps of {fit['batch_size']} texts with {fit['n_blocks']} blocks",
            f"- verifier {report['verifier']['file']}, {report['verifier']['fingerprint']}; chat "
            f"template {report['verifier']['chat_template']}",
            f"- {', '.join(f'{name} {number}' for name, number in report['versions'].items())}",
            "",
            f"    {report['command']}",
            "",
        ]
    )


def _row(name: str, accepted: float, per_position: list[float]) -> str:
    shares = " | ".join(f"{share:.0%}" for share in per_position)
    return f"| {name} | {accepted:.2f} | {shares} |"


def _start_name(report: dict[str, Any]) -> str:
    return "start" if report["log"][0]["step"] == 0 else "first look"


def _verifier(path: Path) -> dict[str, Any]:
    header = GGUFHeader(path)
    template = header.get("tokenizer.chat_template")
    digest = hashlib.sha256(str(template).encode()).hexdigest()[:12]
    return {
        "name": str(header.get("general.name") or path.stem),
        "file": path.name,
        "fingerprint": hub.fingerprint(path),
        "chat_template": "none" if template is None else f"sha256 {digest}",
    }


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

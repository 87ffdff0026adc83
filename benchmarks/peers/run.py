"""One run: for each kind of weights start the engines, measure, and report."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console

from dflash_local.bench import machine
from dflash_local.bench.suite import load_prompts
from dflash_local.files import demo_pair
from dflash_local.files.drafter_file import DrafterInfo, read_drafter
from dflash_local.machine.other_work import OtherWork

from . import summary
from .answer import ADAPTIVE, EAGLE3, MTP, OURS, STOCK, TORCH, UPSTREAM, Variant
from .engine import UnavailableError
from .measure import Plan, measure
from .options import DEMO_WEIGHTS, Options
from .output import Report
from .progress import shown
from .prompts import Vocabulary, in_turn, tokenize
from .weights import AS_IS, verifier_in
from .worker import Worker

# Where the loops of llama.cpp look ahead they want a little room behind the last token.
_ROOM = 64
_DEMO_CHECKPOINT = Path(__file__).resolve().parents[2] / "drafters" / "smollm2-135m-dflash"
_TORCH_WEIGHTS = ("BF16", "F16", AS_IS)


@dataclass(frozen=True)
class Job:
    """A run's inputs, found and checked.

    Attributes:
        torch_weights: the one kind that is compared with torch, which reads no quantised ones.
    """

    options: Options
    weights: tuple[str, ...]
    drafter: DrafterInfo
    vocabulary: Vocabulary
    torch_weights: str | None

    @property
    def widths(self) -> list[int]:
        """Ours, from 1 on."""
        return self._given(self.options.widths)

    @property
    def n_max(self) -> list[int]:
        """Upstream's."""
        return self._given(self.options.n_max)

    def _given(self, asked: tuple[int, ...]) -> list[int]:
        most = self.drafter.max_width
        return [width for width in asked or range(1, most + 1) if width <= most]


def prepare(options: Options) -> Job:
    """Finds the models and reads the prompts.

    Raises:
        ModelError: a model is missing or unusable.
        DFlashError: the file of prompts is.
    """
    weights = options.weights or (DEMO_WEIGHTS if options.verifier is None else (AS_IS,))
    drafter = read_drafter(options.drafter or demo_pair.drafter())
    prompts = in_turn(load_prompts(options.prompts))[: options.n_prompts]
    vocabulary = tokenize(verifier_in(weights[0], options.verifier), prompts)
    torch_weights = next((kind for kind in _TORCH_WEIGHTS if kind in weights), None)
    return Job(options, weights, drafter, vocabulary, torch_weights)


def run(job: Job, console: Console) -> Report:
    """Measures all weights.

    Raises:
        UnavailableError: stock llama_cpp or ours does not run: nothing is left to compare.
        ModelError: the verifier cannot be had in these weights.
    """
    report, others = Report(_facts(job)), OtherWork()
    began = time.monotonic()
    for index, weights in enumerate(job.weights):
        verifier = verifier_in(weights, job.options.verifier)
        deadline = _deadline(job, began, index)
        with _plan(job, weights, verifier, report) as plan, shown(console, weights) as progress:
            report.records += measure(plan, deadline=deadline, progress=progress)
            report.skipped |= {f"{name} on {weights}": why for name, why in plan.skipped.items()}
            if Variant(STOCK, 0) not in plan.workers:
                raise UnavailableError(plan.skipped[STOCK])
    report.rows = _in_order(summary.rows(report.records))
    report.facts["other_work"] = others.share()
    report.notes += _notes(job, report)
    return report


def _deadline(job: Job, began: float, index: int) -> float | None:
    minutes = job.options.minutes
    if minutes is None:
        return None
    return began + minutes * 60 * (index + 1) / len(job.weights)


@contextmanager
def _plan(job: Job, weights: str, verifier: Path, report: Report) -> Iterator[Plan]:
    """The engines that came up; the others are told in the report."""
    setup = _setup(job, verifier)
    workers: dict[Variant, Worker] = {}
    with ExitStack() as stack:

        def start(name: str, variants: list[Variant], python: str | None = None) -> None:
            asked = [(variant.engine, variant.width) for variant in variants]
            worker = Worker(name, {**setup, "variants": asked}, python or sys.executable)
            stack.callback(worker.close)
            report.facts["versions"] |= worker.versions
            workers.update(dict.fromkeys(variants, worker))

        ours = [Variant(OURS, width) for width in [0, *job.widths]]
        start("llama", [Variant(STOCK, 0), *ours, Variant(ADAPTIVE, job.drafter.max_width)])
        for name, variants, python in _peers(job, weights):
            try:
                start(name, variants, python)
            except UnavailableError as error:
                report.skipped[variants[0].engine] = str(error)
        options = job.options
        yield Plan(weights, job.vocabulary.prompts, options.max_tokens, options.rounds, workers)


def _peers(job: Job, weights: str) -> Iterator[tuple[str, list[Variant], str | None]]:
    options = job.options
    if "xllamacpp" in options.peers:
        kinds = [UPSTREAM, *([EAGLE3] if options.eagle3 else []), *([MTP] if options.mtp else [])]
        drafting = [Variant(kind, width) for kind in kinds for width in job.n_max]
        # In processes of their own. Each server computes in a thread of its own with a team of
        # workers of its own, and OpenMP makes teams that together outnumber the CPUs sleep at every
        # barrier: two servers in one process decode at half the speed of one.
        for variant in [Variant(UPSTREAM, 0), *drafting]:
            yield "xllamacpp", [variant], None
    if "torch" in options.peers and weights == job.torch_weights:
        variants = [Variant(TORCH, 0), Variant(TORCH, job.drafter.max_width)]
        yield "torch", variants, options.torch_python


def _setup(job: Job, verifier: Path) -> dict[str, Any]:
    options = job.options
    checkpoint = options.torch_drafter or (None if options.verifier else _DEMO_CHECKPOINT)
    longest = max(map(len, job.vocabulary.prompts)) + options.max_tokens + _ROOM
    return {
        "verifier": str(verifier),
        "drafter": str(job.drafter.path),
        "kind": "dspark" if job.drafter.kind == "dspark" else "dflash",
        "n_ctx": -(-longest // 256) * 256,
        "threads": options.threads,
        "gpu_layers": options.gpu_layers,
        "flash_attn": options.flash_attn,
        "eagle3": str(options.eagle3) if options.eagle3 else None,
        "torch_drafter": str(checkpoint) if checkpoint and checkpoint.is_dir() else None,
        "torch_dtype": options.torch_dtype,
        "end_tokens": job.vocabulary.end_tokens,
    }


def _facts(job: Job) -> dict[str, Any]:
    named = {field.name: getattr(job.options, field.name) for field in fields(job.options)}
    del named["torch_python"], named["json"], named["csv"]  # of this machine, not of the figures
    plain = {key: value.name if isinstance(value, Path) else value for key, value in named.items()}
    plain |= {"weights": job.weights, "drafter": job.drafter.path.name}
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "hardware": machine.hardware([]),
        "versions": machine.versions(),
        "options": plain,
    }


def _notes(job: Job, report: Report) -> list[str]:
    notes = []
    if any(row.engine == TORCH for row in report.rows):
        notes.append(f"{TORCH} computes in {job.options.torch_dtype}")
    elif "torch" in job.options.peers and job.torch_weights is None:
        report.skipped[TORCH] = f"it needs {' or '.join(_TORCH_WEIGHTS)} among --weights"
    others = report.facts["other_work"]
    if others > OtherWork.TOO_MUCH:
        notes.append(
            f"the machine was busy: others took {others:.0%} of its CPUs: do not cite this"
        )
    return notes


def _in_order(rows: list[summary.Row]) -> list[summary.Row]:
    engines = [STOCK, OURS, ADAPTIVE, UPSTREAM, EAGLE3, MTP, TORCH]
    weights = list(dict.fromkeys(row.weights for row in rows))
    return sorted(
        rows, key=lambda row: (weights.index(row.weights), engines.index(row.engine), row.width)
    )

"""``report.json``: everything that was measured and derived, in one document."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from dflash_local.errors import DFlashError
from dflash_local.files.gguf_header import GGUFHeader
from dflash_local.runtime.placement import offloaded_layers

from . import machine
from .adaptive import Adaptive, judge
from .calls import CallCost, call_costs
from .costs import CostAccount, account
from .measures import throughput
from .places import AtPlace, by_place
from .record import Answer, answer_to_dict
from .runner import BenchOptions, Run
from .suite import Prompt, categories
from .summary import Summary, summarize

#: Rises when a field changes its meaning or goes.
SCHEMA = 2

#: ``report.json``, as plain values.
Document = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """A run and all that was derived from it.

    Attributes:
        overall: one a mode, plain first.
        by_category: the same, for each category.
        adaptive: over all categories, then by category; empty where adaptive widths were not run.
        calls: ``create_chat_completion`` beside ``generate``; empty where no prompt is a chat.
        places: the speed by place in the answer, as far as answers are long enough.
        other_work: share of the machine's CPUs that others took during the run.
    """

    options: BenchOptions
    run: Run
    prompts: Sequence[Prompt]
    overall: list[Summary]
    by_category: dict[str, list[Summary]]
    costs: CostAccount
    adaptive: list[Adaptive]
    calls: list[CallCost]
    places: list[AtPlace]
    other_work: float | None = None


def derive(
    options: BenchOptions, run: Run, prompts: Sequence[Prompt], other_work: float | None = None
) -> Results:
    """The measures of a run."""
    overall = _summaries(options, run, "all")
    by_category = {name: _summaries(options, run, name) for name in categories(prompts)}
    judged = [judge(run.answers, summaries) for summaries in [overall, *by_category.values()]]
    accepted = run.learned["accepted"] if run.learned else ()
    assert run.staircase is not None, "a finished run has one"
    return Results(
        options=options,
        run=run,
        prompts=prompts,
        overall=overall,
        by_category=by_category,
        costs=account(run.staircase, overall, _model(options.verifier)["weights"], accepted),
        adaptive=[found for found in judged if found is not None],
        calls=call_costs(run.answers, run.chats, run.main_modes),
        places=by_place([*run.answers, *run.chats, *run.long], run.modes),
        other_work=other_work,
    )


def to_report(results: Results) -> Document:
    """Plain values for JSON."""
    run, options = results.run, results.options
    return {
        "schema": SCHEMA,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "hardware": machine.hardware(run.memory.devices),
        "versions": machine.versions(),
        "other_work": results.other_work,
        "models": {
            "verifier": _model(options.verifier),
            "drafter": _model(options.drafter) | {"max_width": run.max_width},
        },
        "options": _options(results),
        "memory": asdict(run.memory),
        "summaries": [asdict(s) for s in [*results.overall, *_flat(results.by_category)]],
        "adaptive": [asdict(found) for found in results.adaptive],
        "calls": [asdict(cost) for cost in results.calls],
        "places": [asdict(at) for at in results.places],
        "learned": run.learned,
        "exact_widths": run.exact_widths,
        "costs": _costs(results.costs),
        "differences": [asdict(difference) for difference in run.differences],
        "prompts": per_prompt(run.answers),
    }


def write_report(results: Results, report: Document, folder: Path) -> None:
    """Writes ``report.json``, and ``records.jsonl`` with every answer as it was measured."""
    text = json.dumps(report, indent=1, allow_nan=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    run = results.run
    lines = (json.dumps(answer_to_dict(a)) + "\n" for a in run.answers + run.chats + run.long)
    (folder / "records.jsonl").write_text("".join(lines), encoding="utf-8")


def read_report(path: Path) -> Document:
    """A report written by ``write_report``.

    Raises:
        DFlashError: it is none, or of another schema.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DFlashError(f"{path}: not a readable report.json ({error})") from error
    schema = report.get("schema") if isinstance(report, dict) else None
    if schema != SCHEMA:
        raise DFlashError(
            f"{path}: a report of schema {schema!r}, expected {SCHEMA}: run the benchmark again "
            "with this version"
        )
    return dict(report)


def per_prompt(answers: Sequence[Answer]) -> dict[str, dict[str, dict[str, float]]]:
    """Medians over the rounds, by prompt and mode: what two reports are compared by."""
    grouped: dict[str, dict[str, list[Answer]]] = {}
    for answer in answers:
        grouped.setdefault(answer.prompt, {}).setdefault(answer.mode, []).append(answer)
    return {
        prompt: {mode: _medians(same) for mode, same in modes.items()}
        for prompt, modes in grouped.items()
    }


def _medians(answers: Sequence[Answer]) -> dict[str, float]:
    values = {"first_token": median(answer.times[0] for answer in answers)}
    speeds = [speed for speed in map(throughput, answers) if speed]
    if speeds:
        values["tokens_per_second"] = median(speeds)
    steps = [step for answer in answers for step in answer.steps]
    if steps:
        values["acceptance_length"] = sum(step.n_emitted for step in steps) / len(steps)
    return values


def _summaries(options: BenchOptions, run: Run, category: str) -> list[Summary]:
    greedy = options.temperature == 0
    return [
        summarize(
            run.answers,
            mode,
            category,
            differences=run.differences,
            greedy=greedy,
            exact_widths=run.exact_widths,
        )
        for mode in run.modes
    ]


def _flat(by_category: Mapping[str, Sequence[Summary]]) -> list[Summary]:
    return [summary for summaries in by_category.values() for summary in summaries]


def _model(path: Path) -> dict[str, Any]:
    """Its name, size and weights; where it lies is nobody's business."""
    header = GGUFHeader(path)
    weights: dict[str, int] = {}
    for tensor in header.tensors.values():
        kind = _type_name(tensor.type)
        weights[kind] = weights.get(kind, 0) + int(np.prod(tensor.shape))
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "architecture": header.get("general.architecture"),
        "weights": max(weights, key=lambda kind: weights[kind]),
        "parameters": sum(weights.values()),
    }


def _type_name(number: int) -> str:
    from gguf import GGMLQuantizationType

    try:
        return str(GGMLQuantizationType(number).name)
    except ValueError:
        return f"type {number}"


def _options(results: Results) -> dict[str, Any]:
    options, run = results.options, results.run
    return {
        "threads": options.threads,
        "gpu_layers": offloaded_layers(options.gpu_layers, options.rpc),
        "rpc": list(options.rpc),
        "n_ctx": run.n_ctx,
        "kv": "f32" if options.kv_f32 else "f16",
        "exact": options.exact,
        "widths": [width for width in run.widths if width is not None],
        "max_tokens": options.max_tokens,
        "temperature": options.temperature,
        "repeat": options.repeat,
        "seed": options.seed,
        "n_prompts": len(results.prompts),
        "modes": run.modes,
    }


def _costs(costs: CostAccount) -> dict[str, Any]:
    rows = [asdict(row) | {"step": row.step} for row in costs.rows]
    return asdict(costs) | {"rows": rows}

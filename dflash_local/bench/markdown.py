"""``report.md``: the report as a person reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dflash_local.machine.other_work import OtherWork

from . import tables
from .adaptive import headline
from .measures import disagree
from .memory import Memory
from .record import ADAPTIVE
from .report import Document, Results
from .tables import Table

_MIB = 1 << 20
#: Titles.
CALLS, PLACES = "The call that people make", "By place in the answer"


def to_markdown(results: Results, report: Document, compared: Sequence[str] = ()) -> str:
    """The whole report; ``compared``: lines about an older one."""
    parts = [
        _title(report),
        *verdicts(results),
        _conditions(report),
        _section("Speed", tables.speed_table(results.overall), "speed.png"),
        "Speed-up: of the median answer. Total speed-up: all tokens over all seconds, where long "
        "answers weigh more.",
        _section("By category", tables.category_table(results.by_category)),
        "Median speed-up / total speed-up / acceptance length.",
        *_adaptive(results),
        _section("Acceptance", _positions(results), "acceptance.png"),
        "Share of blocks in which at least so many drafts were accepted.",
        _section("Latency", tables.latency_table(results.overall)),
        "The tokens of one step come together: p50 may be near 0, p95 is then a whole step.",
        *_calls(results),
        *_places(results),
        _section("Quality", tables.quality_table(results.overall)),
        _quality_note(report),
        _section("Cost account", tables.cost_table(results.costs), "costs.png"),
        _cost_note(results),
        markdown_table(tables.part_table(results.costs)),
        _section("Memory", _memory_table(results.run.memory)),
        _memory_note(results.run.memory),
    ]
    if compared:
        parts += ["## Against the older report", "\n".join(f"- {line}" for line in compared)]
    parts.append("Definitions: `docs/analysis.md`. Every answer as measured: `records.jsonl`.")
    return "\n\n".join(part for part in parts if part) + "\n"


def verdicts(results: Results) -> list[str]:
    """What adaptive widths reached, if they were run; what drafting brings at a fixed width."""
    adaptive = [headline(results.adaptive[0], results.adaptive[1:])] if results.adaptive else []
    return [*adaptive, results.costs.verdict]


def markdown_table(table: Table) -> str:
    """A table of Markdown; the best row is bold."""
    rows = [table.head, ["---"] * len(table.head)]
    for index, row in enumerate(table.rows):
        rows.append([f"**{cell}**" for cell in row] if index == table.best else row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _title(report: Document) -> str:
    models = report["models"]
    names = " and ".join(_model_name(models[role]) for role in ("verifier", "drafter"))
    return f"# Benchmark: {names}"


def _model_name(model: Mapping[str, Any]) -> str:
    return f"{model['file']} ({model['weights']}, {model['bytes'] / _MIB:.0f} MiB)"


def _conditions(report: Document) -> str:
    hardware, options, versions = report["hardware"], report["options"], report["versions"]
    gpus = ", ".join(hardware["gpus"]) or "no GPU"
    lines = [
        f"- {hardware['cpu']}, {hardware['logical_cpus']} logical CPUs, {gpus}, "
        f"{hardware['system']}; threads: {options['threads']}",
        "- " + ", ".join(f"{name} {version}" for name, version in versions.items()),
        f"- {options['n_prompts']} prompts, {options['repeat']} rounds, "
        f"{options['max_tokens']} tokens at most, temperature {options['temperature']:g}, "
        f"context {options['n_ctx']}, {options['kv'].upper()} K/V",
        "- Plain is stock `llama_cpp.Llama`; width 0 is this package's loop with nothing drafted. "
        "All take turns in one process. Median [lower quartile, upper quartile].",
    ]
    return "\n".join([*lines, *warnings(report)])


def warnings(report: Document) -> list[str]:
    """What makes the figures doubtful."""
    others = report["other_work"]
    lines = []
    if others is not None and others > OtherWork.TOO_MUCH:
        lines.append(
            f"- **The machine was busy**: other processes took {others:.0%} of its CPUs during the "
            "run. Times are not to be trusted."
        )
    drifts = [s["drift"] for s in report["summaries"] if s["category"] == "all" and s["drift"]]
    if drifts and max(drifts) > 0.1:
        lines.append(
            f"- **The machine wavered**: rounds of the same work differ by up to {max(drifts):.0%}."
        )
    return [*lines, *_disagreements(report)]


def _disagreements(report: Document) -> list[str]:
    """Where the median answer and all answers together say two things."""
    found = [
        (tables.mode_name(s["mode"]), s["speed_up"]["median"], s["speed_up_total"])
        for s in report["summaries"]
        if s["category"] == "all" and s["speed_up"] and s["speed_up_total"]
    ]
    return [
        f"- **Median and total disagree**: {', '.join(_both(*known) for known in modes)} (the "
        "speed-up of the median answer, and that of all tokens over all seconds): the answers that "
        f"take longest gain {how} than most. Measure on prompts like those you will run."
        for how, modes in (
            ("less", [f for f in found if disagree(*f[1:]) and f[1] > f[2]]),
            ("more", [f for f in found if disagree(*f[1:]) and f[1] < f[2]]),
        )
        if modes
    ]


def _both(name: str, typical: float, total: float) -> str:
    return f"{name} {typical:.2f}x and {total:.2f}x"


def _adaptive(results: Results) -> list[str]:
    if not results.adaptive:
        return []
    return [
        _section("Adaptive widths", tables.adaptive_table(results.adaptive)),
        "Over plain decoding, of the median answer and in total, least by prompt (medians over the "
        "rounds), and over the fixed width that was fastest in the same answers. Adaptive widths "
        "have a model of their own and learn from its steps alone.",
    ]


def _calls(results: Results) -> list[str]:
    if not results.calls:
        return []
    return [
        _section(CALLS, tables.call_table(results.calls)),
        "The same answers through `create_chat_completion`, streamed, right after those of "
        "`generate`: text, stop strings and chunks are the difference.",
    ]


def _places(results: Results) -> list[str]:
    if not results.places:
        return []
    return [
        _section(PLACES, tables.place_table(results.places)),
        "Speed-up over plain decoding at those tokens of the answer, by so many pairs; answers "
        "count where they are long enough. `--long-answers` adds some of 1,500 tokens, which are "
        "sampled and go on past their end.",
    ]


def _section(title: str, table: Table, picture: str | None = None) -> str:
    image = f"\n\n![{title}]({picture})" if picture else ""
    return f"## {title}\n\n{markdown_table(table)}{image}"


def _positions(results: Results) -> Table:
    drafting = [s for s in results.overall if s.per_position and s.mode != ADAPTIVE]
    most = max((len(s.per_position) for s in drafting), default=0)
    rows = [
        [
            tables.mode_name(s.mode),
            *(tables.percent(share) for share in s.per_position),
            *([""] * (most - len(s.per_position))),
        ]
        for s in drafting
    ]
    return Table(["", *(str(k + 1) for k in range(most))], rows)


def _quality_note(report: Document) -> str:
    if report["options"]["temperature"] > 0:
        return "Above temperature 0 answers are drawn: only their scores can be compared."
    return (
        "A block of rows rounds otherwise than one row (and weights or K/V below F32 do so more), "
        "so two equally good tokens may change places; where all steps are exact, plain decoding's "
        "logits to the bit, none do. The margin is that of the two best logits "
        "of plain decoding where an answer leaves the plain one. The score is the share of "
        "checked answers that pass; cut answers may fail."
    )


def _cost_note(results: Results) -> str:
    costs = results.costs
    return (
        f"Measured after {costs.n_context} tokens, where a plain token costs "
        f"{tables.milliseconds(costs.plain)} ms. Break-even: the acceptance length at which a step "
        "costs as much as plain decoding of its tokens. Lengths of widths that were not run follow "
        "from the acceptance per position of the widest. The parts of the steps that the run took:"
    )


def _memory_table(memory: Memory) -> Table:
    rows = []
    for name, weights, context in (
        ("verifier, plain", memory.verifier, memory.plain_context),
        ("verifier, with taps", memory.verifier, memory.verifier_context),
        ("drafter", memory.drafter, memory.drafter_context),
    ):
        sizes = [weights, context.kv if context else None, context.compute if context else None]
        rows.append([name, *(_mib(size) for size in sizes)])
    return Table(["MiB", "weights (file)", "K/V", "compute buffers"], rows)


def _memory_note(memory: Memory) -> str:
    resident = memory.resident
    before, plain, both = (resident.get(k) for k in ("before", "plain", "speculative"))
    source = "K/V and compute buffers as libllama reports them."
    if memory.verifier_context is None:
        source = "libllama did not report its buffers: the process as a whole has to do."
    if before is None or plain is None or both is None:
        return source
    return (
        f"{source} Resident memory of the process: {_mib(before)} MiB before loading, "
        f"{_mib(plain)} with the plain model, {_mib(both)} with both (they share the verifier's "
        "file)."
    )


def _mib(size: float | None) -> str:
    return tables.NONE if size is None else f"{size / _MIB:.1f}"

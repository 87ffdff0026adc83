"""``speed.png``, ``acceptance.png`` and ``costs.png``: each title says what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from dflash_local.errors import DFlashError

from .adaptive import Adaptive
from .costs import CostAccount
from .measures import Spread
from .record import ADAPTIVE, PARTS, PLAIN
from .report import Results
from .summary import Summary
from .tables import fastest, milliseconds, mode_name

PICTURES = ("speed.png", "acceptance.png", "costs.png")

_GREY, _BLUE, _STRONG, _RED = "#9aa1a9", "#9dbfe3", "#1f5fa8", "#c0392b"
_PART_COLOURS = {"verify": _STRONG, "draft": "#e8963e", "sample": "#7fb069", "inject": "#8e6bb5"}
_CATEGORY_COLOURS = ("#1f5fa8", "#e8963e", "#4f9d69", "#8e6bb5", "#b5495b", "#5b8c9d")
_STYLE: dict[str, Any] = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e3e6ea",
    "axes.axisbelow": True,
    "axes.edgecolor": "#6b7178",
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.dpi": 150,
}


def draw_pictures(results: Results, folder: Path) -> None:
    """Writes the three pictures.

    Raises:
        DFlashError: matplotlib is not installed.
    """
    try:
        matplotlib = import_module("matplotlib")
    except ImportError as error:
        raise DFlashError(
            "matplotlib is not installed, so no pictures were drawn: pip install matplotlib"
        ) from error
    new_figure = import_module("matplotlib.figure").Figure
    painters = (_speed, _acceptance, _costs)
    with matplotlib.rc_context(_STYLE):
        for name, paint in zip(PICTURES, painters, strict=True):
            figure = new_figure(figsize=(11, 4.8), layout="constrained")
            paint(figure, results)
            figure.savefig(folder / name)


# ---- speed ---------------------------------------------------------------------------------


def _speed(figure: Any, results: Results) -> None:
    left, right = figure.subplots(1, 2)
    best, adaptive = _best(results), results.adaptive
    title = _adaptive_title(adaptive[0]) if adaptive else _speed_title(best)
    figure.suptitle(title, fontsize=15, fontweight="bold")
    _throughput_bars(left, results.overall)
    _category_dots(right, results.by_category, ADAPTIVE if adaptive else best.mode)
    _best_marks(right, results)


def _best(results: Results) -> Summary:
    """The fastest of the fixed widths that draft, or of all if none does."""
    drafting = [s for s in results.overall if s.mode not in (PLAIN, ADAPTIVE, "0")]
    among = drafting or results.overall
    return among[fastest(among) or 0]


def _adaptive_title(found: Adaptive) -> str:
    title = f"Adaptive widths: {_gains(found.speed_up.median, found.speed_up_total)}"
    if found.over_best is None:
        return title
    return f"{title}; {found.over_best.median:.2f}x the best fixed width, {found.best}"


def _gains(typical: float, total: float) -> str:
    return f"{typical:.2f}x plain decoding in the median answer, {total:.2f}x in total"


def _speed_title(best: Summary) -> str:
    typical = best.speed_up.median if best.speed_up else 1.0
    total = best.speed_up_total or 1.0
    gains = _gains(typical, total)
    if max(typical, total) > 1:
        return f"{mode_name(best.mode).capitalize()} is fastest: {gains}"
    name = mode_name(best.mode)
    return f"No width pays here: the best, {name}, reaches {gains}"


def _throughput_bars(axes: Any, summaries: Sequence[Summary]) -> None:
    best = fastest(summaries)
    known = [s.tokens_per_second or Spread(0, 0, 0, 0) for s in summaries]
    colours = [_GREY if s.mode in (PLAIN, "0") else _BLUE for s in summaries]
    if best is not None and summaries[best].mode not in (PLAIN, "0"):
        colours[best] = _STRONG
    places = range(len(summaries))
    heights = [spread.median for spread in known]
    axes.bar(places, heights, color=colours, width=0.7)
    axes.errorbar(places, heights, yerr=_whiskers(known), fmt="none", ecolor="#333", capsize=4)
    for place, summary, spread in zip(places, summaries, known, strict=True):
        gain = "" if summary.speed_up is None else f"\n{summary.speed_up.median:.2f}x"
        axes.annotate(
            f"{spread.median:{'.0f' if spread.median >= 100 else '.1f'}}{gain}",
            (place, spread.high),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
        )
    axes.set_xticks(places, [mode_name(s.mode).replace(" ", "\n") for s in summaries])
    axes.set_ylim(0, max(spread.high for spread in known) * 1.22 or 1.0)
    axes.set_ylabel("tokens a second")
    axes.set_title("Throughput, median and quartiles over answers", loc="left")


def _category_dots(axes: Any, by_category: Mapping[str, Sequence[Summary]], mode: str) -> None:
    rows = [
        (category, summary.speed_up)
        for category, summaries in by_category.items()
        for summary in summaries
        if summary.mode == mode and summary.speed_up
    ]
    rows.reverse()  # matplotlib counts from below
    axes.axvline(1.0, color=_RED, linewidth=1.5, linestyle="--")
    for place, (_, spread) in enumerate(rows):
        colour = _STRONG if spread.median > 1 else _GREY
        axes.plot([spread.low, spread.high], [place, place], color=colour, linewidth=3, alpha=0.5)
        axes.plot(spread.median, place, "o", color=colour, markersize=9)
        axes.annotate(
            f"{spread.median:.2f}x",
            (spread.median, place),
            xytext=(0, 9),
            textcoords="offset points",
            ha="center",
        )
    axes.set_yticks(range(len(rows)), [category for category, _ in rows])
    axes.set_ylim(-0.6, len(rows) - 0.3)
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("speed-up over plain decoding (dashed: as fast)")
    axes.set_title(f"Speed-up, {mode_name(mode)}, pair by pair", loc="left")


def _best_marks(axes: Any, results: Results) -> None:
    """A ring for the best fixed width of each category, beside adaptive ones."""
    best = {found.category: found.best for found in results.adaptive if found.best is not None}
    gains = [
        (place, summary.speed_up.median)
        for place, (category, summaries) in enumerate(reversed(results.by_category.items()))
        for summary in summaries
        if summary.mode == best.get(category) and summary.speed_up
    ]
    if gains:
        ring = {"markerfacecolor": "none", "markeredgecolor": "black", "markersize": 12}
        places, medians = zip(*gains, strict=True)
        axes.plot(medians, places, "o", label="best fixed width of the category", **ring)
        axes.legend(loc="lower right")


def _whiskers(spreads: Sequence[Spread]) -> list[list[float]]:
    return [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]


# ---- acceptance ----------------------------------------------------------------------------


def _acceptance(figure: Any, results: Results) -> None:
    left, right = figure.subplots(1, 2)
    figure.suptitle(_acceptance_title(results), fontsize=15, fontweight="bold")
    _position_curves(left, results)
    _length_against_break_even(right, results.costs)


def _with_curves(results: Results) -> list[Summary]:
    """Of fixed widths: what adaptive ones verify is chosen, so their shares say little."""
    return [s for s in results.overall if s.per_position and s.mode != ADAPTIVE]


def _acceptance_title(results: Results) -> str:
    drafting = _with_curves(results)
    if not drafting:
        return "No fixed width that drafts was run"
    widest = max(drafting, key=lambda s: len(s.per_position))
    first = widest.per_position[0]
    length = widest.acceptance_length or 1.0
    return f"{first:.0%} of first drafts are accepted; {length:.2f} tokens a step at full width"


def _position_curves(axes: Any, results: Results) -> None:
    drafting = _with_curves(results)
    if not drafting:
        return
    mode = max(drafting, key=lambda s: len(s.per_position)).mode
    lines = [(name, _of(summaries, mode)) for name, summaries in results.by_category.items()]
    for index, (name, summary) in enumerate(lines):
        colour = _CATEGORY_COLOURS[index % len(_CATEGORY_COLOURS)]
        _curve(axes, summary, color=colour, label=name, linewidth=1.4, markersize=4)
    if len(lines) > 1:
        overall = _of(results.overall, mode)
        _curve(axes, overall, color="black", label="all", linewidth=3, markersize=6)
    axes.set_ylim(0, 1.04)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("position in the draft")
    axes.set_title(f"Blocks accepted at least so far, {mode_name(mode)}", loc="left")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()


def _curve(axes: Any, summary: Summary, **style: Any) -> None:
    shares = summary.per_position
    axes.plot(range(1, len(shares) + 1), shares, marker="o", **style)


def _length_against_break_even(axes: Any, costs: CostAccount) -> None:
    widths = [row.width for row in costs.rows]
    lengths = [row.acceptance_length for row in costs.rows]
    needed = [row.break_even for row in costs.rows]
    axes.plot(widths, needed, color=_RED, linewidth=2, linestyle="--", label="needed to break even")
    axes.plot(widths, lengths, color=_STRONG, linewidth=2, label="acceptance length")
    measured = [row for row in costs.rows if row.measured is not None]
    axes.plot(
        [row.width for row in measured],
        [row.acceptance_length for row in measured],
        "o",
        color=_STRONG,
        markersize=7,
        label="measured",
    )
    pays = [length > need for length, need in zip(lengths, needed, strict=True)]
    area = {"color": _BLUE, "alpha": 0.5, "linewidth": 0, "interpolate": True}
    axes.fill_between(widths, needed, lengths, where=pays, **area)
    axes.set_ylim(0, max(*lengths, *needed) * 1.1)
    axes.set_xlabel("width (drafts a step)")
    axes.set_ylabel("tokens a step")
    axes.set_title("Drafting pays where the blue line is above", loc="left")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()


def _of(summaries: Sequence[Summary], mode: str) -> Summary:
    return next(s for s in summaries if s.mode == mode)


# ---- costs ---------------------------------------------------------------------------------


def _costs(figure: Any, results: Results) -> None:
    left, right = figure.subplots(1, 2)
    figure.suptitle(_cost_title(results.costs), fontsize=15, fontweight="bold")
    _staircase(left, results.costs)
    _predictions(right, results.costs)


def _cost_title(costs: CostAccount) -> str:
    last = costs.rows[-1]
    ratio = last.verify / costs.rows[0].verify
    return f"Verifying {last.width + 1} tokens costs {ratio:.1f} single ones on this machine"


def _staircase(axes: Any, costs: CostAccount) -> None:
    widths = [row.width for row in costs.rows]
    bottom = [0.0] * len(widths)
    for part in ("verify", *(part for part in PARTS if part != "verify")):
        heights = [1e3 * getattr(row, part) for row in costs.rows]
        axes.bar(widths, heights, bottom=bottom, color=_PART_COLOURS[part], label=part, width=0.75)
        bottom = [low + high for low, high in zip(bottom, heights, strict=True)]
    label = f"a plain token: {milliseconds(costs.plain)} ms"
    axes.axhline(1e3 * costs.plain, color="black", linewidth=1.5, linestyle="--", label=label)
    axes.set_ylim(0, max(bottom) * 1.25)
    axes.set_xticks(widths)
    axes.set_xlabel("width (drafts a step)")
    axes.set_ylabel("milliseconds")
    axes.set_title("What a step costs, by part", loc="left")
    axes.legend(loc="upper left", ncols=2)


def _predictions(axes: Any, costs: CostAccount) -> None:
    widths = [row.width for row in costs.rows]
    predicted = [row.predicted for row in costs.rows]
    measured = [(row.width, row.measured) for row in costs.rows if row.measured is not None]
    axes.axhline(1.0, color=_RED, linewidth=1.5, linestyle="--")
    axes.plot(widths, predicted, color=_BLUE, linewidth=2.5, marker=".", label="predicted")
    axes.plot(
        [width for width, _ in measured],
        [gain for _, gain in measured],
        "o",
        color=_STRONG,
        markersize=8,
        label="measured, in total",
    )
    top = max([1.0, *predicted, *(gain for _, gain in measured)])
    axes.set_ylim(0, top * 1.2)
    axes.set_xticks(widths)
    axes.set_xlabel("width (drafts a step)")
    axes.set_ylabel("speed-up over plain decoding")
    axes.set_title("Predicted from the costs, and measured", loc="left")
    axes.legend(loc="lower left")

"""What changed since an older report, beyond noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from .report import Document
from .tables import mode_name

#: measure: (its name for people, the least change that counts, whether more is better)
_MEASURES = {
    "tokens_per_second": ("tokens/s", 0.03, True),
    "first_token": ("time to first token", 0.10, False),
    "acceptance_length": ("acceptance length", 0.01, True),
    "speed_up": ("speed-up", 0.03, True),
}
#: Without a second round nothing is known of the machine's noise: this much is assumed.
_UNKNOWN_NOISE = 0.05
#: Quartiles of fewer prompts mean nothing.
_FEW = 6


@dataclass(frozen=True)
class Change:
    """One measure of one mode, paired prompt by prompt.

    Attributes:
        ratio: median over the prompts of new over old.
        low, high: the interval that the median of such ratios lies in (95 %), widened by how far
            the rounds of either report lay apart.
    """

    mode: str
    measure: str
    ratio: float
    low: float
    high: float
    n_prompts: int

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval leaves out "no change", and the change is worth a word."""
        least = _MEASURES[self.measure][1]
        return not self.low <= 1.0 <= self.high and abs(self.ratio - 1) > least

    @property
    def better(self) -> bool:
        """Whether the change is to the good."""
        return (self.ratio > 1) == _MEASURES[self.measure][2]


def compare(old: Document, new: Document) -> list[Change]:
    """Every measure that both reports have, mode by mode, over the prompts they share."""
    modes = [m for m in new["options"]["modes"] if m in old["options"]["modes"]]
    changes = []
    for mode in modes:
        for measure in _MEASURES:
            ratios = list(_ratios(old, new, mode, measure))
            if ratios:
                noise = _noise(old, new, measure)
                changes.append(_change(mode, measure, ratios, noise))
    return changes


def describe(old: Document, new: Document) -> list[str]:
    """The comparison in lines: what differs in the conditions, then what changed."""
    lines = [*_conditions(old, new)]
    changes = compare(old, new)
    if not changes:
        return [*lines, "the reports share no prompt and mode: nothing can be compared"]
    real = [change for change in changes if change.beyond_noise]
    if not real:
        lines.append(f"nothing changed beyond noise ({changes[0].n_prompts} prompts compared)")
    return [*lines, *(_sentence(change) for change in real)]


def _sentence(change: Change) -> str:
    name = _MEASURES[change.measure][0]
    verdict = "better" if change.better else "worse"
    return (
        f"{mode_name(change.mode)}: {name} {change.ratio - 1:+.1%} "
        f"[{change.low - 1:+.1%}, {change.high - 1:+.1%}], {verdict}"
    )


def _conditions(old: Document, new: Document) -> Iterator[str]:
    watched = [
        ("hardware", ("cpu", "gpus", "logical_cpus")),
        ("versions", ("dflash-local", "llama-cpp-python")),
        ("options", ("threads", "gpu_layers", "n_ctx", "kv", "max_tokens", "temperature")),
        ("models", ("verifier", "drafter")),
    ]
    for part, keys in watched:
        for key in keys:
            before, after = old[part].get(key), new[part].get(key)
            if before != after:
                yield f"{key} differs: {_short(before)} then, {_short(after)} now"


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{value.get('file')} ({value.get('bytes')} bytes)"
    return str(value)


def _ratios(old: Document, new: Document, mode: str, measure: str) -> Iterator[float]:
    for prompt, modes in new["prompts"].items():
        before = _value(old["prompts"].get(prompt, {}), mode, measure)
        after = _value(modes, mode, measure)
        if before and after:
            yield after / before


def _value(modes: Mapping[str, Mapping[str, float]], mode: str, measure: str) -> float | None:
    own = modes.get(mode, {})
    if measure != "speed_up":
        return own.get(measure)
    speed, plain = own.get("tokens_per_second"), modes.get("plain", {}).get("tokens_per_second")
    return speed / plain if speed and plain and mode != "plain" else None


def _noise(old: Document, new: Document, measure: str) -> float:
    """How far apart the rounds of the noisier report lie; nothing where no clock is involved."""
    if measure == "acceptance_length":
        return 0.0
    return max(_drift(old), _drift(new))


def _drift(report: Document) -> float:
    """The largest of all modes: it is the machine that wavers, whatever it is doing."""
    drifts = [s["drift"] for s in report["summaries"] if s["category"] == "all"]
    known = [drift for drift in drifts if drift is not None]
    return max(known, default=_UNKNOWN_NOISE)


def _change(mode: str, measure: str, ratios: list[float], noise: float) -> Change:
    logs = [math.log(ratio) for ratio in ratios]
    middle = median(logs)
    margin = _half_width(logs, middle) + math.log1p(noise)
    return Change(
        mode=mode,
        measure=measure,
        ratio=math.exp(middle),
        low=math.exp(middle - margin),
        high=math.exp(middle + margin),
        n_prompts=len(ratios),
    )


def _half_width(values: list[float], middle: float) -> float:
    """Of the interval that the median lies in: McGill's notch, or the whole range of a few."""
    if len(values) < _FEW:
        return max(abs(value - middle) for value in values)
    low, high = np.quantile(values, (0.25, 0.75)).tolist()
    return float(1.57 * (high - low) / math.sqrt(len(values)))

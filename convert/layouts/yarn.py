"""YaRN: which of its settings libllama reads from keys, and what is to be done about the others.

libllama's dflash graph takes a factor and the original context. The other settings it reads for
some architectures, and for drafters it computes with their defaults, whatever the keys say. A
drafter that was trained with others is written with its frequencies divided one by one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..reading.fields import Fields


@dataclass(frozen=True)
class Yarn:
    """Scaling of a rotary embedding, as transformers has it; None is what a config leaves open.

    Attributes:
        factor: by which the slow pairs are stretched.
        original_context: tokens that it was trained for before.
        ext_factor: how much of the ramp is applied.
        magnitude: of cosines and sines; None follows from the factor.
        beta_fast: turns within the original context above which a pair keeps its frequency.
        beta_slow: turns below which it is stretched.
        truncate: the ramp begins and ends at whole pairs.
    """

    factor: float
    original_context: int
    ext_factor: float | None = None
    magnitude: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    truncate: bool = True

    @property
    def scale(self) -> float:
        """Magnitude of cosines and sines."""
        return _magnitude(self.factor) if self.magnitude is None else self.magnitude

    @property
    def usual(self) -> bool:
        """Whether libllama computes it, by the defaults that it has."""
        defaults = (self.ext_factor, 1), (self.beta_fast, 32), (self.beta_slow, 1)
        same = all(value in (None, default) for value, default in defaults)
        scale = math.isclose(self.scale, _magnitude(self.factor), rel_tol=1e-6)
        return same and scale and self.truncate

    def keys(self) -> dict[str, str | int | float]:
        """Keys under ``rope.scaling``; where they do not say it all, `factors` do."""
        if not self.usual:
            return {"attn_factor": self.scale}
        stated = {
            "yarn_ext_factor": self.ext_factor,
            "yarn_attn_factor": self.magnitude,
            "yarn_beta_fast": self.beta_fast,
            "yarn_beta_slow": self.beta_slow,
        }
        return {
            "type": "yarn",
            "factor": self.factor,
            "original_context_length": self.original_context,
            **{name: value for name, value in stated.items() if value is not None},
        }

    def factors(self, theta: float, n_rot: int) -> npt.NDArray[np.float64]:
        """What each rotating pair's frequency is divided by, [n_rot / 2]."""
        low, high = (self._pair(turns, theta, n_rot) for turns in self._betas())
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, n_rot - 1)
        ramp = np.clip((np.arange(n_rot // 2) - low) / max(high - low, 0.001), 0, 1)
        kept = (1 - ramp) * (1 if self.ext_factor is None else self.ext_factor)
        return np.asarray(1 / ((1 - kept) / self.factor + kept))

    def _betas(self) -> tuple[float, float]:
        return self.beta_fast or 32.0, self.beta_slow or 1.0

    def _pair(self, turns: float, theta: float, n_rot: int) -> float:
        """The pair that makes so many turns within the original context."""
        wavelength = self.original_context / (turns * 2 * math.pi)
        return n_rot * math.log(wavelength) / (2 * math.log(theta))


def parse_yarn(fields: Fields) -> Yarn:
    """Read a config's section of type yarn."""
    factor = fields.number("factor")
    magnitude = fields.optional_number("attention_factor") or fields.optional_number("attn_factor")
    part, whole = fields.optional_number("mscale"), fields.optional_number("mscale_all_dim")
    if magnitude is None and part and whole:
        magnitude = _magnitude(factor, part) / _magnitude(factor, whole)
    return Yarn(
        factor,
        fields.integer("original_max_position_embeddings"),
        _between(fields, "extrapolation_factor", 1e-6, 1.0),
        magnitude,
        _between(fields, "beta_fast", 1e-3, 1e6),
        _between(fields, "beta_slow", 1e-3, 1e6),
        fields.flag("truncate", True) is not False,
    )


def _between(fields: Fields, name: str, low: float, high: float) -> float | None:
    value = fields.optional_number(name)
    if value is not None and not low <= value <= high:
        fields.problems.append(f"`{name}`: found {value}, expected a number from {low} to {high}")
    return value


def _magnitude(factor: float, scale: float = 1.0) -> float:
    return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0

"""Rotary position embeddings: from the config's spellings to what llama.cpp reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from dflash_local.files.rope_fields import rope_fields

from ..reading.fields import Fields
from ..reading.safetensors_file import Float32Array
from .yarn import Yarn, parse_yarn

PLAIN_TYPES = ("default", "mrope", "llama3", "proportional")
DEFAULT_THETA = 10000.0  # llama.cpp's
STANDS_STILL = 1e30  # what a pair's frequency is divided by, as in llama.cpp's converter


@dataclass(frozen=True)
class Llama3Scaling:
    """The four numbers of Llama 3.1's frequency scaling; wavelengths in tokens."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: float


@dataclass(frozen=True)
class Rope:
    """A drafter's rotary embedding.

    Attributes:
        theta: base frequency; None leaves llama.cpp's 10000.
        n_rot: dimensions of a head that rotate; None is all.
        scaling: GGUF keys under ``dflash.rope.scaling`` and their values.
        llama3: becomes the tensor ``rope_freqs.weight``.
        n_proportional: pairs that rotate where Gemma leaves the others in place; also becomes that
            tensor.
        yarn: becomes keys, or that tensor where libllama would ignore some of them.
        mrope: the config carries the sections of a multi-axis embedding.
    """

    theta: float | None = None
    n_rot: int | None = None
    scaling: Mapping[str, str | int | float] = field(default_factory=dict)
    llama3: Llama3Scaling | None = None
    n_proportional: int | None = None
    yarn: Yarn | None = None
    mrope: bool = False


def parse_rope(config: Fields, head_dim: int) -> Rope:
    """Read what a config says, in either spelling; what contradicts itself is a problem."""
    nested = rope_fields(config.values, config.problems)
    fields = Fields(nested, config.problems)
    kind = nested.get("rope_type", "default")
    llama3 = _llama3(fields) if kind == "llama3" else None
    yarn = parse_yarn(fields) if kind == "yarn" else None
    theta = fields.optional_number("rope_theta")
    if yarn is not None and theta is not None and theta <= 1:
        fields.problems.append(f"`rope_theta`: found {theta}, expected more than 1 with YaRN")
    scaling = _scaling(kind, fields) if yarn is None else yarn.keys()
    if kind == "proportional":
        n_pairs = (_rotated(fields, head_dim, whole=False) or head_dim) // 2
        return Rope(theta, head_dim, scaling, n_proportional=n_pairs)
    n_rot = _rotated(fields, head_dim, whole=llama3 is not None)
    return Rope(theta, n_rot, scaling, llama3, yarn=yarn, mrope="mrope_section" in nested)


def frequency_factors(rope: Rope, head_dim: int) -> Float32Array | None:
    """What each rotating pair's frequency is divided by, [head_dim / 2]; None is all by 1."""
    if rope.llama3 is not None:
        theta = DEFAULT_THETA if rope.theta is None else rope.theta
        return llama3_factors(rope.llama3, theta, head_dim)
    if rope.n_proportional is not None:
        factors = np.full(head_dim // 2, STANDS_STILL, np.float32)
        factors[: rope.n_proportional] = 1.0
        return factors
    if rope.yarn is not None and not rope.yarn.usual:
        return _yarn_factors(rope, rope.yarn, head_dim)
    return None


def _yarn_factors(rope: Rope, yarn: Yarn, head_dim: int) -> Float32Array:
    theta = DEFAULT_THETA if rope.theta is None else rope.theta
    rotating = yarn.factors(theta, rope.n_rot or head_dim)
    factors = np.ones(head_dim // 2, np.float32)
    factors[: len(rotating)] = rotating
    return factors


def llama3_factors(scaling: Llama3Scaling, theta: float, head_dim: int) -> Float32Array:
    """What each rotating pair's frequency is divided by; shape [head_dim / 2].

    The same function as that of llama.cpp's converter for Llama 3.1: short wavelengths stay, long
    ones are stretched by ``factor``, those between are blended.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = 1.0 / np.power(np.float32(theta), exponents)
    wavelengths = (2 * math.pi / frequencies).astype(np.float64)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = (scaling.original_context / wavelengths - low) / (high - low)
    smooth = np.clip(smooth, 0.0, 1.0)
    return np.asarray(1 / ((1 - smooth) / scaling.factor + smooth), np.float32)


def _rotated(fields: Fields, head_dim: int, *, whole: bool) -> int | None:
    fraction = fields.optional_number("partial_rotary_factor")
    if fraction is None:
        return None
    n_rot = int(head_dim * fraction)
    if fraction > 1 or n_rot < 2 or n_rot % 2 or (whole and n_rot != head_dim):
        fields.problems.append(
            f"`partial_rotary_factor`: {fraction} turns {n_rot} of {head_dim} dimensions; expected "
            "an even number of them" + (", all of them with llama3 scaling" if whole else "")
        )
    return n_rot


def _llama3(fields: Fields) -> Llama3Scaling:
    scaling = Llama3Scaling(
        fields.number("factor", 8.0),
        fields.number("low_freq_factor", 1.0),
        fields.number("high_freq_factor", 4.0),
        fields.number("original_max_position_embeddings", 8192.0),
    )
    if scaling.low_freq_factor >= scaling.high_freq_factor:
        fields.problems.append("`low_freq_factor` must be smaller than `high_freq_factor`")
    return scaling


def _scaling(kind: str, fields: Fields) -> dict[str, str | int | float]:
    if kind in PLAIN_TYPES:
        return {}
    if kind == "linear":
        return {"type": "linear", "factor": fields.number("factor")}
    fields.problems.append(
        f"`rope_type`: found {kind!r}, which the dflash graph of llama.cpp cannot compute; "
        "expected default, linear, yarn, llama3 or proportional"
    )
    return {}

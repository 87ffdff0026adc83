"""The rotary embedding that a drafter is trained with: that of its config.json, as in the GGUF."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from dflash_local.errors import DFlashError
from dflash_local.files.rope_fields import BESIDE, ROPE_SECTIONS, rope_fields

DEFAULT_THETA = 10000.0  # transformers' and llama.cpp's
_ORIGINAL = "original_max_position_embeddings"
# What is computed here as libllama will compute it, and the numbers that it takes.
SCALINGS = {
    "linear": ("factor",),
    "yarn": ("factor", _ORIGINAL),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", _ORIGINAL),
}
# The converter reads them, transformers does not.
_UNKNOWN = ("extrapolation_factor", "attn_factor")


def in_one_spelling(fields: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The fields of a config.json with ``rope_theta`` and ``rope_scaling`` alone.

    Every transformers reads that spelling; of both at once version 5 takes the wrong theta.

    Args:
        what: the file, for the error.

    Raises:
        DFlashError: they contradict each other, or cannot be trained with.
    """
    problems: list[str] = []
    rope = rope_fields(fields, problems)
    problems += _untrainable(rope)
    if problems:
        raise DFlashError("\n  - ".join([f"{what}: the drafter cannot be trained", *problems]))
    theta = float(rope.pop("rope_theta", DEFAULT_THETA))
    scaled = rope.get("rope_type", "default") != "default"
    rest = {name: value for name, value in fields.items() if name not in (*ROPE_SECTIONS, *BESIDE)}
    return {**rest, "rope_theta": theta, "rope_scaling": rope if scaled else None}


def _untrainable(rope: Mapping[str, Any]) -> list[str]:
    kind, share = rope.get("rope_type", "default"), rope.get("partial_rotary_factor", 1)
    found = []
    if kind not in ("default", *SCALINGS):
        found.append(f"`rope_type`: found {kind!r}, expected one of default, {', '.join(SCALINGS)}")
    if share != 1:
        found.append(f"`partial_rotary_factor`: found {share!r}, expected 1: all dimensions turn")
    found += [
        f"`{name}`: found {rope.get(name)!r}, expected a number: rope of the type {kind} needs it"
        for name in SCALINGS.get(kind, ())
        if not isinstance(rope.get(name), (int, float))
    ]
    found += [
        f"`{name}`: found {rope[name]!r}, which training does not know; expected none"
        for name in _UNKNOWN
        if rope.get(name) is not None
    ]
    return found


def rope_theta(config: PretrainedConfig) -> float:
    """transformers 5 keeps it among the rope parameters, 4 beside them."""
    parameters = getattr(config, "rope_parameters", None) or {}
    return float(parameters.get("rope_theta") or config.rope_theta)


def rates(config: PretrainedConfig) -> tuple[Tensor, float]:
    """Radians a position of each pair, [head_dim / 2], and the magnitude of cosines and sines."""
    scaling = getattr(config, "rope_parameters", None) or config.rope_scaling or {}
    kind = scaling.get("rope_type", "default")
    if kind in SCALINGS:
        if kind == "yarn":  # some releases of transformers take its factor from the longest text
            config = copy.deepcopy(config)
            config.max_position_embeddings = int(scaling["factor"] * scaling[_ORIGINAL])
        found, magnitude = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
        return found, float(magnitude)
    dims = torch.arange(0, config.head_dim, 2, dtype=torch.float32)
    return rope_theta(config) ** (-dims / config.head_dim), 1.0

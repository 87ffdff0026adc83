"""The rotary embedding of a drafter to go on with: its spellings, and its frequencies."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from dflash_local.errors import DFlashError

_ORIGINAL = "original_max_position_embeddings"
#: What is computed here as the converted file will be by libllama, and the numbers that it takes.
_KINDS = {
    "default": (),
    "linear": ("factor",),
    "yarn": ("factor", _ORIGINAL),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", _ORIGINAL),
}
_DEFAULT_THETA = 10000.0  # as the converter has it


def one_spelling(fields: Mapping[str, Any]) -> dict[str, Any]:
    """config.json's fields with the rotary embedding in ``rope_theta`` and ``rope_scaling`` alone.

    transformers has two spellings, and takes parts of either where a file has both.

    Raises:
        DFlashError: the two say different things, or something that training does not compute.
    """
    newer, older = (_section(fields, name) for name in ("rope_parameters", "rope_scaling"))
    theta = _theta([newer or {}, older or {}, fields])
    if newer is not None and older is not None and _scaling(newer, theta) != _scaling(older, theta):
        raise DFlashError(
            "config.json: `rope_parameters` and `rope_scaling` contradict each other: remove the "
            "one that the drafter was not trained with"
        )
    scaling = _scaling(newer if newer is not None else older or {}, theta)
    if _ORIGINAL in _KINDS.get(scaling["rope_type"], ()) and fields.get(_ORIGINAL) is not None:
        scaling.setdefault(_ORIGINAL, fields[_ORIGINAL])
    _check(scaling, fields)
    rest = {name: value for name, value in fields.items() if name != "rope_parameters"}
    plain = scaling["rope_type"] == "default"
    return {**rest, "rope_theta": theta, "rope_scaling": None if plain else scaling}


def _theta(parts: Sequence[Mapping[str, Any]]) -> float:
    found = (part.get("rope_theta") for part in parts)
    stated = sorted({float(theta) for theta in found if theta is not None})
    if len(stated) > 1:
        raise DFlashError(f"config.json: several `rope_theta`: {stated}; keep the right one")
    return stated[0] if stated else _DEFAULT_THETA


def _section(fields: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    section = fields.get(name)
    if isinstance(section, dict) and isinstance(section.get("full_attention"), dict):
        section = section["full_attention"]
    return copy.deepcopy(section) if isinstance(section, dict) else None


def _scaling(section: dict[str, Any], theta: float) -> dict[str, Any]:
    """A section with its kind under one name, and with theta; without what it leaves open."""
    stated = {name: value for name, value in section.items() if value is not None}
    older = stated.pop("type", "default")
    kind = str(stated.pop("rope_type", older)).lower()
    return {"rope_type": kind, "rope_theta": theta, **stated}


def _check(scaling: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    kind = scaling["rope_type"]
    if kind not in _KINDS:
        raise DFlashError(f"config.json: training knows no rope of the type {kind!r}")
    if missing := [name for name in _KINDS[kind] if not isinstance(scaling.get(name), int | float)]:
        raise DFlashError(f"config.json: rope of the type {kind} needs {' and '.join(missing)}")
    part = scaling.get("partial_rotary_factor", fields.get("partial_rotary_factor"))
    if part not in (None, 1, 1.0):
        raise DFlashError(f"config.json: training turns whole heads, and {part} of one is to turn")


def rope_theta(config: Any) -> float:
    """transformers 5 keeps it among the rope parameters, 4 beside them."""
    parameters = getattr(config, "rope_parameters", None) or {}
    return float(parameters.get("rope_theta") or config.rope_theta)


def frequencies(config: Qwen3Config) -> tuple[Tensor, float]:
    """What a position turns each pair of a head by, [head_dim / 2], and the size of the result."""
    scaling = getattr(config, "rope_parameters", None) or config.rope_scaling or {}
    kind = scaling.get("rope_type", "default")
    if kind == "default":
        dims = torch.arange(0, config.head_dim, 2, dtype=torch.float32)
        return rope_theta(config) ** (-dims / config.head_dim), 1.0
    if kind == "yarn":  # some releases of transformers take its factor from the longest text
        config = copy.deepcopy(config)
        config.max_position_embeddings = int(scaling["factor"] * scaling[_ORIGINAL])
    rates, scale = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    return rates.float(), float(scale)

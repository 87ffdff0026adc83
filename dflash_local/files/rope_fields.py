"""The rotary embedding in a config.json: its fields are spelled in two ways, and may be in both.

transformers 5 has ``rope_parameters`` with everything in it; before it was ``rope_scaling``, with
``rope_theta`` beside it. Who reads the one and not the other gets another drafter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ROPE_SECTIONS = ("rope_parameters", "rope_scaling")
#: Fields that may also stand beside the sections.
BESIDE = ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
_TOP = "config.json itself"

Section = dict[str, Any]


def rope_fields(config: Mapping[str, Any], problems: list[str]) -> Section:
    """All fields, in one section; ``rope_type`` is in lower case, and absent where nothing is said.

    Args:
        config: of one transformer; its nulls count as absent.
        problems: gets a line for each contradiction.
    """
    said = {name: _section(config, name, problems) for name in ROPE_SECTIONS}
    said[_TOP] = {name: config[name] for name in BESIDE if config.get(name) is not None}
    merged: Section = {}
    sources: dict[str, str] = {}
    for source, fields in said.items():
        for name, value in fields.items():
            if name not in merged:
                merged[name], sources[name] = value, source
            elif merged[name] != value:
                problems.append(
                    f"`{name}`: {_named(sources[name])} says {merged[name]!r:.60}, "
                    f"{_named(source)} says {value!r:.60}: they contradict each other. Remove the "
                    "one that the drafter was not trained with"
                )
    return merged


def _named(source: str) -> str:
    return source if source == _TOP else f"`{source}`"


def _section(config: Mapping[str, Any], name: str, problems: list[str]) -> Section:
    value = config.get(name)
    if value is not None and not isinstance(value, dict):
        problems.append(f"`{name}`: found {value!r:.60}, expected an object")
        return {}
    fields = _without_nulls(value or {})
    full = fields.get("full_attention")
    if not isinstance(full, dict):
        return _one_type(name, fields, problems)
    found = _one_type(name, _without_nulls(full), problems)
    sliding = fields.get("sliding_attention")
    if isinstance(sliding, dict):
        other = _one_type(name, _without_nulls(sliding), [])
        _check_layers(name, found, other, problems)
    return found


def _without_nulls(fields: Section) -> Section:
    return {key: value for key, value in fields.items() if value is not None}


def _one_type(section: str, fields: Section, problems: list[str]) -> Section:
    """The fields with ``type``, an older word, as ``rope_type``."""
    kinds = {key: str(fields[key]).lower() for key in ("rope_type", "type") if key in fields}
    if len(set(kinds.values())) > 1:
        problems.append(
            f"`{section}`: `rope_type` is {kinds['rope_type']!r}, `type` is {kinds['type']!r}: "
            "they contradict each other"
        )
    rest = {key: value for key, value in fields.items() if key not in kinds}
    return {**({"rope_type": next(iter(kinds.values()))} if kinds else {}), **rest}


def _check_layers(section: str, full: Section, sliding: Section, problems: list[str]) -> None:
    different = next((k for k in {**full, **sliding} if full.get(k) != sliding.get(k)), None)
    if different is not None:
        problems.append(
            f"`{section}`: full and sliding attention have different `{different}`; "
            "libllama's dflash graph has one rotary embedding for all layers"
        )

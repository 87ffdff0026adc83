"""A GGUF file's keys against what a checkpoint's config makes of them."""

from __future__ import annotations

import math
from typing import Any

from dflash_local.gguf_header import GGUFHeader

from ..layouts.drafter import DrafterConfig
from ..writing.keys import ARCHITECTURE, MASK_TOKEN_KEY, drafter_keys

# What libllama assumes where a key is absent.
DEFAULTS: dict[str, Any] = {
    "attention.causal": False,
    "attention.value_scale": 1.0,
    "embedding_scale": 1.0,
    "final_logit_softcapping": 0.0,
    "hidden_activation": "silu",
    "logit_scale": 1.0,
    "rope.freq_base": 10000.0,
    "rope.scaling.attn_factor": 1.0,
    "rope.scaling.factor": 1.0,
    "rope.scaling.type": "none",
    "sample_from_anchor": True,
}
# Of no consequence for what is drafted.
IGNORED = frozenset({"context_length", "vocab_size", "has_confidence_head"})


def key_problems(config: DrafterConfig, header: GGUFHeader, *, mrope: bool) -> list[str]:
    """Keys that say something else than the checkpoint's config, one line each."""
    prefix = f"{ARCHITECTURE}."
    expected = {
        key.name.removeprefix(prefix): key.value for key in drafter_keys(config, mrope=mrope)
    }
    found = {key.removeprefix(prefix): header.get(key) for key in header if key.startswith(prefix)}
    expected[MASK_TOKEN_KEY] = config.mask_token_id
    found[MASK_TOKEN_KEY] = header.get(MASK_TOKEN_KEY)
    defaults = {**DEFAULTS, "rope.dimension_count": config.head_dim}
    problems = []
    for name in sorted((expected.keys() | found.keys()) - IGNORED):
        ours, theirs = (values.get(name, defaults.get(name)) for values in (found, expected))
        if not _equal(ours, theirs):
            problems.append(f"key {name}: found {ours}, the checkpoint says {theirs}")
    return problems


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-6)  # the file rounds to F32
    return bool(one == other)

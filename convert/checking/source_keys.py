"""A GGUF file's keys against what a checkpoint's config makes of them."""

from __future__ import annotations

import math
from typing import Any

from dflash_local.files.gguf_header import GGUFHeader
from dflash_local.files.key_table import ARCHITECTURE, FOREIGN_KEYS, KEYS

from ..layouts.drafter import DrafterConfig
from ..writing.keys import MASK_TOKEN_KEY, drafter_keys

_ROWS = (*KEYS.values(), *FOREIGN_KEYS.values())
# What libllama assumes where a key is absent.
DEFAULTS = {row.name: row.default for row in _ROWS if row.default is not None}
IGNORED = frozenset(row.name for row in _ROWS if not row.drafts)


def unlike_checkpoint(config: DrafterConfig, header: GGUFHeader, *, mrope: bool) -> list[str]:
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

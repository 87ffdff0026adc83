"""Layouts D and D': the Open Spec Config, a flat Qwen3 config with a `speculative_config`.

Its older revision nests a few fields once more, in `speculative_config.dflash_config`.
"""

from __future__ import annotations

from ..reading.fields import Fields, raise_problems
from ..reading.source import Source
from .drafter import DrafterConfig
from .speculators import parse_drafter
from .target_layers import counted_from

SECTION = "speculative_config"
METHODS = ("dflash", "dspark")  # the older revision's own example calls a DFlash drafter the latter


def parse_config(source: Source) -> DrafterConfig:
    """Read and check config.json.

    Raises:
        ModelError: lists every field that is missing, wrong or cannot be expressed in GGUF.
    """
    top = Fields(source.config, [])
    section = Fields(top.section(SECTION), top.problems)
    own = {**section.values, **section.section("dflash_config")}
    draft = Fields({**source.config, **own}, top.problems)
    if (method := draft.get("method")) not in METHODS:
        top.problems.append(f"`method`: found {method!r}, expected 'dflash'")
    first = draft.integer("target_layer_start_idx", low=0, high=1)
    ids = draft.integers("target_layer_ids")
    if ids is None and draft.get("target_layer_ids") is None:
        top.problems.append("`target_layer_ids`: found nothing, expected a list of layers")
    anchor = bool(draft.flag("sample_from_anchor", False))
    config = parse_drafter(
        source,
        top,
        draft,
        target_layer_ids=counted_from(first, ids or ()),
        # The anchor is a position of the block, though it may predict nothing.
        block_size=draft.integer("speculative_tokens") + (0 if anchor else 1),
    )
    raise_problems(source.folder / "config.json", top.problems)
    return config

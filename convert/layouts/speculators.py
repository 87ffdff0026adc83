"""Layouts B', C and E: speculators' DFlash, DFlash2 and DSpark, a Qwen3 config within another."""

from __future__ import annotations

from dataclasses import replace

from ..reading.fields import Fields, raise_problems
from ..reading.source import Source
from .attention import stated, with_masks
from .blocks import parse_blocks
from .dflash2 import selector
from .drafter import DrafterConfig
from .dspark import markov_head

LAYER_CONFIG = "transformer_layer_config"
KINDS = ("dflash", "dflash2", "dspark")


def parse_config(source: Source) -> DrafterConfig:
    """Read and check config.json.

    Raises:
        ModelError: lists every field that is missing, wrong or cannot be expressed in GGUF.
    """
    top = Fields(source.config, [])
    layer = top.section(LAYER_CONFIG)
    own = {name: value for name, value in source.config.items() if value is not None}
    block, draft = Fields({**own, **layer}, top.problems), Fields({**layer, **own}, top.problems)
    _check_kind(top)
    config = parse_drafter(source, block, draft, block_size=draft.integer("block_size", low=2))
    raise_problems(source.folder / "config.json", top.problems)
    return config


def parse_drafter(
    source: Source,
    block: Fields,
    draft: Fields,
    *,
    block_size: int,
    target_layer_ids: tuple[int, ...] | None = None,
) -> DrafterConfig:
    """What speculators and the Open Spec Config mean by the same fields; see `parse_blocks`."""
    config = parse_blocks(
        source, block, draft, block_size=block_size, target_layer_ids=target_layer_ids
    )
    found = selector(draft, config.n_embd, reduced=config.n_vocab_draft is not None)
    config = replace(
        config,
        selector=found,
        markov=None if found else markov_head(source, draft, from_anchor=False),
    )
    return with_masks(config, stated(draft, Fields({}, [])), _causal_layers(draft, config))


def _causal_layers(draft: Fields, config: DrafterConfig) -> tuple[bool, ...]:
    # Their masks: sliding layers are causal inside a block unless told not to be, others never.
    default = config.selector is not None  # theirs for DFlash2
    if config.sliding is None or draft.flag("sliding_window_non_causal", default):
        return ()
    return config.sliding.pattern


def _check_kind(top: Fields) -> None:
    kind = top.get("speculators_model_type")
    if kind is not None and kind not in KINDS:
        top.problems.append(
            f"`speculators_model_type`: found {kind!r}, which llama.cpp's dflash graph cannot "
            f"compute; expected one of {', '.join(KINDS)}"
        )

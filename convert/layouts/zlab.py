"""Layouts A, B and J: z-lab's DFlash and DFlash2 (also SpecForge, ModelOpt, TorchSpec, NeMo, MiMo).

A flat Qwen3 config, with a section `dflash_config` of what makes it a drafter.
"""

from __future__ import annotations

from dataclasses import replace

from ..reading.fields import Fields, raise_problems
from ..reading.source import Source
from .attention import SLIDING, layer_types, stated, with_masks
from .blocks import parse_blocks
from .dflash2 import selector
from .drafter import DrafterConfig
from .dspark import DEFAULT_BLOCK_SIZE, markov_head


def parse_config(source: Source) -> DrafterConfig:
    """Read and check config.json.

    Raises:
        ModelError: lists every field that is missing, wrong or cannot be expressed in GGUF.
    """
    top = Fields(source.config, [])
    nested = Fields(top.section("dflash_config"), top.problems)
    draft = Fields({**source.config, **nested.values}, top.problems)
    block_size = draft.integer("block_size", DEFAULT_BLOCK_SIZE, low=2)
    config = parse_blocks(source, top, draft, block_size=block_size)
    found = selector(draft, config.n_embd, reduced=config.n_vocab_draft is not None)
    config = replace(
        config,
        selector=found,
        markov=None if found else markov_head(source, draft, from_anchor=None),
        value_scale=nested.optional_number("attention_value_scale"),
    )
    # z-lab's model, vLLM and SGLang: sliding layers are causal unless the config says otherwise.
    windowed = bool(top.flag("use_sliding_window"))
    kinds = layer_types(top, config.n_layer, windowed=windowed)
    config = with_masks(config, stated(top, nested), tuple(kind == SLIDING for kind in kinds))
    raise_problems(source.folder / "config.json", top.problems)
    return config

"""Layout F for Gemma 4: DeepSpec's DSpark on Gemma's layers, with keys that are values too."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ..reading.fields import Fields, raise_problems
from ..reading.source import Source
from .attention import FULL, stated, with_masks
from .blocks import parse_blocks
from .drafter import DrafterConfig
from .dspark import DEFAULT_BLOCK_SIZE, markov_head

ROPE: dict[str, Any] = {  # of its class in transformers, where the config names none
    "rope_type": "proportional",
    "partial_rotary_factor": 0.25,
    "rope_theta": 1000000.0,
}
ROPE_TYPES = ("default", "proportional")
ACTIVATION = "gelu_pytorch_tanh"


def parse_config(source: Source) -> DrafterConfig:
    """Read and check config.json.

    Raises:
        ModelError: lists every field that is missing, wrong or cannot be expressed in GGUF.
    """
    top = Fields(source.config, [])
    nested = Fields(top.section("dflash_config"), top.problems)
    draft = Fields({**source.config, **nested.values}, top.problems)
    _check(top)
    block = Fields({**source.config, **_renamed(top)}, top.problems)
    block_size = draft.integer("block_size", DEFAULT_BLOCK_SIZE, low=2)
    config = parse_blocks(source, block, draft, block_size=block_size)
    if config.n_vocab_draft is not None:
        top.problems.append("a reduced vocabulary: llama.cpp's converter knows none with Gemma 4")
    config = replace(
        config,
        rope=replace(config.rope, n_rot=config.head_dim),
        shared_kv=True,
        sandwich_norms=True,
        attention_scale=1.0,
        embedding_scale=math.sqrt(config.n_embd),
        markov=markov_head(source, draft, from_anchor=True),
    )
    config = with_masks(config, stated(top, nested), ())
    raise_problems(source.folder / "config.json", top.problems)
    return config


def _renamed(top: Fields) -> dict[str, Any]:
    """The fields of its full-attention layers, under the names all other layouts have."""
    # Its class has defaults of its own, and knows no other spelling.
    older = {} if top.get("rope_parameters") else dict.fromkeys(("rope_theta", "rope_scaling"))
    return {
        **older,
        "head_dim": top.integer("global_head_dim"),
        "num_key_value_heads": top.integer("num_global_key_value_heads"),
        "hidden_act": top.get("hidden_activation") or ACTIVATION,
        "rope_parameters": _rope(top),
        "use_sliding_window": None,
        "partial_rotary_factor": None,
    }


def _rope(top: Fields) -> dict[str, Any]:
    nested = top.section("rope_parameters") or {FULL: ROPE}
    full = nested.get(FULL, nested)
    rope: dict[str, Any] = full if isinstance(full, dict) else {}
    kind = rope.get("rope_type", "default")
    if kind not in ROPE_TYPES:
        top.problems.append(
            f"`rope_type`: found {kind!r}, expected one of {', '.join(ROPE_TYPES)} with Gemma 4"
        )
        return {}
    if kind == "default":
        return {**rope, "partial_rotary_factor": None}
    return {"partial_rotary_factor": ROPE["partial_rotary_factor"], **rope}


def _check(top: Fields) -> None:
    types, n_layer = top.get("layer_types"), top.get("num_hidden_layers")
    wrong = {
        "`attention_k_eq_v`: expected true": not top.flag("attention_k_eq_v", False),
        "`layer_types`: expected full_attention only": isinstance(n_layer, int)
        and 0 < n_layer < 512
        and types != [FULL] * n_layer,
        f"`hidden_activation`: expected {ACTIVATION}": top.get("hidden_activation")
        not in (None, ACTIVATION),
        "`enable_moe_block`: expected false": top.flag("enable_moe_block", False),
        "`hidden_size_per_layer_input`: expected 0": top.get("hidden_size_per_layer_input"),
        "`final_logit_softcapping`: expected none": top.get("final_logit_softcapping"),
    }
    top.problems.extend(
        f"{expected}: llama.cpp's dflash graph computes nothing else with Gemma 4's layers"
        for expected, found in wrong.items()
        if found
    )

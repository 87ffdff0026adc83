"""From a drafter's config to GGUF keys, with upstream's names and types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gguf import GGUFValueType

from ..layouts.drafter import DrafterConfig
from ..layouts.target_layers import layer_inputs

ARCHITECTURE = "dflash"
MASK_TOKEN_KEY = "tokenizer.ggml.mask_token_id"


@dataclass(frozen=True)
class Key:
    """One GGUF key; ``item`` is the type of an array's elements."""

    name: str
    value: Any
    type: GGUFValueType
    item: GGUFValueType | None = None


def u32(name: str, value: int) -> Key:
    """An unsigned integer."""
    return Key(name, value, GGUFValueType.UINT32)


def f32(name: str, value: float) -> Key:
    """A float, rounded to 32 bits."""
    return Key(name, value, GGUFValueType.FLOAT32)


def boolean(name: str, value: bool) -> Key:
    """A truth value."""
    return Key(name, value, GGUFValueType.BOOL)


def string(name: str, value: str) -> Key:
    """A text."""
    return Key(name, value, GGUFValueType.STRING)


def integers(name: str, values: list[int]) -> Key:
    """An array of 32-bit integers."""
    return Key(name, values, GGUFValueType.ARRAY, GGUFValueType.INT32)


def booleans(name: str, values: list[bool]) -> Key:
    """An array of truth values."""
    return Key(name, values, GGUFValueType.ARRAY, GGUFValueType.BOOL)


def drafter_keys(config: DrafterConfig, *, mrope: bool) -> list[Key]:
    """Every ``dflash.*`` key of a drafter, in the order they are written."""
    keys = [
        u32("block_count", config.n_layer),
        u32("context_length", config.n_ctx),
        u32("embedding_length", config.n_embd),
        u32("feed_forward_length", config.n_ff),
        u32("attention.head_count", config.n_head),
        u32("attention.head_count_kv", config.n_head_kv),
        u32("attention.key_length", config.head_dim),
        u32("attention.value_length", config.head_dim),
        f32("attention.layer_norm_rms_epsilon", config.rms_eps),
        *_rope(config, mrope),
        *_attention(config),
        *_optional(config),
        *_heads(config),
        u32("block_size", config.block_size),
        integers("target_layers", layer_inputs(config.target_layer_ids)),
    ]
    return [Key(f"{ARCHITECTURE}.{key.name}", key.value, key.type, key.item) for key in keys]


def _rope(config: DrafterConfig, mrope: bool) -> list[Key]:
    rope = config.rope
    keys = [] if rope.theta is None else [f32("rope.freq_base", rope.theta)]
    if rope.n_rot is not None:
        keys.append(u32("rope.dimension_count", rope.n_rot))
    for name, value in rope.scaling.items():
        make: Any = {str: string, int: u32, float: f32}[type(value)]
        keys.append(make(f"rope.scaling.{name}", value))
    if mrope:
        # A draft has no images: every pair turns with the temporal position.
        keys.append(integers("rope.dimension_sections", [config.head_dim // 2, 0, 0, 0]))
    return keys


def _attention(config: DrafterConfig) -> list[Key]:
    keys = []
    if config.sliding is not None:
        keys.append(u32("attention.sliding_window", config.sliding.size))
        keys.append(booleans("attention.sliding_window_pattern", list(config.sliding.pattern)))
    if config.causal is not None:
        keys.append(boolean("attention.causal", config.causal))
    return keys


def _optional(config: DrafterConfig) -> list[Key]:
    numbers = {
        "attention.scale": config.attention_scale,
        "attention.value_scale": config.value_scale,
        "logit_scale": config.logit_scale,
        "final_logit_softcapping": config.final_logit_softcapping,
        "embedding_scale": config.embedding_scale,
    }
    keys = [f32(name, value) for name, value in numbers.items() if value is not None]
    if config.activation is not None:
        keys.append(string("hidden_activation", config.activation))
    return keys


def _heads(config: DrafterConfig) -> list[Key]:
    keys = []
    if (selector := config.selector) is not None:
        keys.append(u32("conv_kernel_size", selector.kernel_size))
        keys.append(u32("conv_group_size", selector.group_size))
        keys.append(u32("selector_rank", selector.rank))
        keys.append(u32("selector_top_k", selector.top_k))
    if (markov := config.markov) is not None:
        keys.append(boolean("sample_from_anchor", markov.from_anchor))
        keys.append(boolean("has_confidence_head", markov.confidence))
    return keys

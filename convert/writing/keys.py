"""From a drafter's config to GGUF keys, with the names and types of the table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gguf import GGUFValueType

from dflash_local.files.key_table import KEYS
from dflash_local.files.layer_ids import layer_inputs

from ..layouts.drafter import DrafterConfig

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


def boolean(name: str, value: bool) -> Key:
    """A truth value."""
    return Key(name, value, GGUFValueType.BOOL)


def string(name: str, value: str) -> Key:
    """A text."""
    return Key(name, value, GGUFValueType.STRING)


def drafter_keys(config: DrafterConfig, *, mrope: bool) -> list[Key]:
    """Every ``dflash.*`` key of a drafter, in the order they are written."""
    values = {
        "block_count": config.n_layer,
        "context_length": config.n_ctx,
        "embedding_length": config.n_embd,
        "feed_forward_length": config.n_ff,
        "attention.head_count": config.n_head,
        "attention.head_count_kv": config.n_head_kv,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_eps,
        **_rope(config, mrope),
        **_attention(config),
        **_heads(config),
        "block_size": config.block_size,
        "target_layers": layer_inputs(config.target_layer_ids),
    }
    return [of_table(name, value) for name, value in values.items() if value is not None]


def of_table(name: str, value: Any) -> Key:
    """A ``dflash.*`` key, of the type that its row says."""
    row = KEYS[name]
    return Key(row.key, value, row.type, row.item)


def _rope(config: DrafterConfig, mrope: bool) -> dict[str, Any]:
    rope = config.rope
    return {
        "rope.freq_base": rope.theta,
        "rope.dimension_count": rope.n_rot,
        **{f"rope.scaling.{name}": value for name, value in rope.scaling.items()},
        # A draft has no images: every pair turns with the temporal position.
        "rope.dimension_sections": [config.head_dim // 2, 0, 0, 0] if mrope else None,
    }


def _attention(config: DrafterConfig) -> dict[str, Any]:
    sliding = config.sliding
    return {
        "attention.sliding_window": sliding and sliding.size,
        "attention.sliding_window_pattern": sliding and list(sliding.pattern),
        "attention.causal": config.causal,
        "attention.scale": config.attention_scale,
        "attention.value_scale": config.value_scale,
        "logit_scale": config.logit_scale,
        "final_logit_softcapping": config.final_logit_softcapping,
        "embedding_scale": config.embedding_scale,
        "hidden_activation": config.activation,
    }


def _heads(config: DrafterConfig) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if (selector := config.selector) is not None:
        values["conv_kernel_size"] = selector.kernel_size
        values["conv_group_size"] = selector.group_size
        values["selector_rank"] = selector.rank
        values["selector_top_k"] = selector.top_k
    if (markov := config.markov) is not None:
        values["sample_from_anchor"] = markov.from_anchor
        values["has_confidence_head"] = markov.confidence
    return values

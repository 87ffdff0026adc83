"""What a drafter for a verifier looks like, unless its maker says otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .verifiers.verifier import Sizes

_SMALL = 1024  # hidden size up to which a drafter of five layers costs more than it brings


def default_layers(sizes: Sizes) -> int:
    """Layers of the drafter: its cost counts beside a small verifier's."""
    return min(sizes.n_layer, 3 if sizes.n_embd <= _SMALL else 5)


def default_block(sizes: Sizes) -> int:
    """Tokens of a block, the anchor among them: more than a verifier this size is drafted for."""
    return 8 if sizes.n_embd <= _SMALL else 16


def default_target_layers(n_verifier_layers: int, n: int = 5) -> list[int]:
    """Published ids of layers whose outputs are read, evenly from the second to the third-last."""
    n = min(n, max(1, n_verifier_layers - 3))
    if n == 1:
        return [n_verifier_layers // 2]
    return sorted({round(1 + i * (n_verifier_layers - 4) / (n - 1)) for i in range(n)})


def config_fields(
    sizes: Sizes, *, n_layer: int, block_size: int, target_layer_ids: Sequence[int], mask_token: int
) -> dict[str, Any]:
    """config.json of a drafter, in z-lab's layout, with the verifier's own proportions."""
    return {
        "architectures": ["DFlashDraftModel"],
        "model_type": "qwen3",
        "training_framework": "dflash-local",
        "block_size": block_size,
        "num_hidden_layers": n_layer,
        "num_target_layers": sizes.n_layer,
        "hidden_size": sizes.n_embd,
        "intermediate_size": sizes.n_ff,
        "num_attention_heads": sizes.n_head,
        "num_key_value_heads": sizes.n_head_kv,
        "head_dim": sizes.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": sizes.rms_eps,
        "rope_theta": sizes.rope_theta,
        "max_position_embeddings": sizes.n_ctx,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "vocab_size": sizes.n_vocab,
        "tie_word_embeddings": True,
        "layer_types": ["full_attention"] * n_layer,
        "use_sliding_window": False,
        "torch_dtype": "bfloat16",
        "dflash_config": {
            "mask_token_id": mask_token,
            "target_layer_ids": list(target_layer_ids),
        },
    }

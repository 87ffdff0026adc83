"""What trainers publish, at a tiny size: the shapes and configs of every layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from layout_files import N_EMBD, N_VERIFIER_LAYERS, N_VOCAB, Array, Shape

N_FF, N_HEAD, N_HEAD_KV, HEAD_DIM, N_LAYER = 96, 4, 2, 16, 2
N_DRAFT_VOCAB, RANK, MASK = 40, 12, 90
IDS = [1, 4, 8]
AUX = [i + 1 for i in IDS]
SLIDING, FULL = "sliding_attention", "full_attention"

Config = dict[str, Any]
Shapes = dict[str, Shape]

QWEN3: Config = {
    "model_type": "qwen3",
    "num_hidden_layers": N_LAYER,
    "hidden_size": N_EMBD,
    "intermediate_size": N_FF,
    "num_attention_heads": N_HEAD,
    "num_key_value_heads": N_HEAD_KV,
    "head_dim": HEAD_DIM,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "max_position_embeddings": 4096,
    "attention_bias": False,
    "vocab_size": N_VOCAB,
    "tie_word_embeddings": False,
}
SLIDING_LAYERS = {
    "use_sliding_window": True,
    "sliding_window": 32,
    "layer_types": [SLIDING] * N_LAYER,
}
ROPE_PARAMETERS = {"rope_type": "default", "rope_theta": 500000.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
SCALES = {"output_multiplier": 0.5, "final_logit_softcapping": 30.0, "input_embedding_scale": 8.0}

# ---- weights -------------------------------------------------------------------------------


def layer_shapes(n_head_kv: int = N_HEAD_KV) -> Shapes:
    """One Qwen3 layer."""
    n_q, n_kv = N_HEAD * HEAD_DIM, n_head_kv * HEAD_DIM
    return {
        "input_layernorm.weight": (N_EMBD,),
        "post_attention_layernorm.weight": (N_EMBD,),
        "self_attn.q_proj.weight": (n_q, N_EMBD),
        "self_attn.k_proj.weight": (n_kv, N_EMBD),
        "self_attn.v_proj.weight": (n_kv, N_EMBD),
        "self_attn.o_proj.weight": (N_EMBD, n_q),
        "self_attn.q_norm.weight": (HEAD_DIM,),
        "self_attn.k_norm.weight": (HEAD_DIM,),
        "mlp.gate_proj.weight": (N_FF, N_EMBD),
        "mlp.up_proj.weight": (N_FF, N_EMBD),
        "mlp.down_proj.weight": (N_EMBD, N_FF),
    }


def backbone(layer: Mapping[str, Shape] | None = None) -> Shapes:
    """What every drafter has."""
    layer = layer_shapes() if layer is None else layer
    return {
        "fc.weight": (N_EMBD, len(IDS) * N_EMBD),
        "hidden_norm.weight": (N_EMBD,),
        **{f"layers.{i}.{name}": shape for i in range(N_LAYER) for name, shape in layer.items()},
        "norm.weight": (N_EMBD,),
    }


def vocabulary(n_draft: int = N_VOCAB) -> Shapes:
    """An embedding and a head of its own."""
    return {"embed_tokens.weight": (N_VOCAB, N_EMBD), "lm_head.weight": (n_draft, N_EMBD)}


def reduction() -> dict[str, Array]:
    """The tables of a reduced vocabulary: target id = i + d2t[i]."""
    ids = np.sort((np.arange(N_DRAFT_VOCAB, dtype=np.int64) * 37) % N_VOCAB)
    t2d = np.zeros(N_VOCAB, np.bool_)
    t2d[ids] = True
    return {"d2t": ids - np.arange(N_DRAFT_VOCAB), "t2d": t2d}


def conv_shapes() -> Shapes:
    """DFlash2's convolutions (kernel 3, groups of 16) and selector."""
    layer = layer_shapes()
    for part in ("attention_conv", "mlp_conv"):
        layer[f"{part}.base_kernel"] = (2, 3, N_EMBD)
        layer[f"{part}.kernel_projection.weight"] = (2 * 3 * N_EMBD // 16, N_EMBD)
    selector = "candidate_selector"
    return {
        **backbone(layer),
        f"{selector}.predecessor_codebook": (N_VOCAB, RANK),
        f"{selector}.successor_codebook": (N_VOCAB, RANK),
        f"{selector}.hidden_projection.weight": (RANK, N_EMBD),
    }


def markov(n_draft: int = N_VOCAB, confidence: str = "confidence_head.proj") -> Shapes:
    """DSpark's heads."""
    heads: Shapes = {
        "markov_head.markov_w1.weight": (N_VOCAB, RANK),
        "markov_head.markov_w2.weight": (n_draft, RANK),
    }
    if confidence:
        heads |= {f"{confidence}.weight": (1, N_EMBD + RANK), f"{confidence}.bias": (1,)}
    return heads


# ---- configs -------------------------------------------------------------------------------


def zlab(dflash: Config | None = None, **changes: Any) -> Config:
    """Layout A; None as a value removes a field."""
    config = {
        "architectures": ["DFlashDraftModel"],
        **QWEN3,
        "block_size": 8,
        "num_target_layers": N_VERIFIER_LAYERS,
        "dflash_config": {"mask_token_id": MASK, "target_layer_ids": IDS, **(dflash or {})},
        **changes,
    }
    return {name: value for name, value in config.items() if value is not None}


DFLASH2 = {"conv_kernel_size": 3, "conv_group_size": 16, "selector_rank": RANK, "selector_top_k": 4}


def speculators(
    kind: str = "dflash", layer: Config | None = None, n_draft: int = N_DRAFT_VOCAB, **changes: Any
) -> Config:
    """Layouts B', C and E: a Qwen3 config within; layer ids count the embeddings as 0."""
    config = {
        "architectures": ["DFlashDraftModel"],
        "speculators_model_type": kind,
        "speculators_version": "0.7.0",
        "model_type": "speculator_model",
        "transformer_layer_config": {**QWEN3, **(layer or {})},
        "block_size": 8,
        "aux_hidden_state_layer_ids": AUX,
        "mask_token_id": MASK,
        "draft_vocab_size": n_draft,
        "sample_from_anchor": False,
        "sliding_window_non_causal": False,
        "tie_word_embeddings": False,
        "speculators_config": {
            "algorithm": kind,
            "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 7}],
            "verifier": {"name_or_path": "nobody/tiny-target", "architectures": []},
        },
        **changes,
    }
    removed = [name for name, value in changes.items() if value is None]
    return {name: value for name, value in config.items() if name not in removed}


def open_spec(
    start: int,
    *,
    n_draft: int = N_DRAFT_VOCAB,
    sample_from_anchor: bool = False,
    **changes: Any,
) -> Config:
    """Layout D: layer ids count from `start` at the embeddings."""
    return {
        "architectures": ["DflashDraftModel"],
        "version": "0.0.0",
        **QWEN3,
        "target_hidden_size": N_EMBD,
        "speculative_config": {
            "method": "dflash",
            "speculative_tokens": 7,
            "target_layer_ids": [i + start for i in IDS],
            "target_layer_start_idx": start,
            "draft_vocab_size": n_draft,
            "sample_from_anchor": sample_from_anchor,
            "mask_token_id": MASK,
            "sliding_window_non_causal": False,
        },
        "speculators_metadata": {"speculators_version": "0.8.0"},
        **changes,
    }


def open_spec_older() -> Config:
    """Layout D', with what older revisions of the schema call things."""
    config = open_spec(1)
    spec = config["speculative_config"]
    moved = ("sample_from_anchor", "mask_token_id", "sliding_window_non_causal")
    spec["dflash_config"] = {name: spec.pop(name) for name in moved}
    spec |= {"method": "dspark", "speculative_library": "speculators"}
    return config


def deepspec(architecture: str = "Qwen3DSparkModel", rank: int = RANK, **changes: Any) -> Config:
    """Layouts F and G: flat, with the drafter's fields at the top."""
    return {
        "architectures": [architecture],
        **QWEN3,
        "block_size": 7,
        "num_target_layers": N_VERIFIER_LAYERS,
        "target_layer_ids": IDS,
        "mask_token_id": MASK,
        "markov_rank": rank,
        "markov_head_type": "vanilla",
        "enable_confidence_head": rank > 0,
        **changes,
    }


GEMMA4: Config = {
    "architectures": ["Gemma4DSparkModel"],
    "model_type": "gemma4_dspark",
    **{
        name: QWEN3[name]
        for name in QWEN3
        if name not in ("model_type", "hidden_act", "rope_theta")
    },
    "hidden_activation": "gelu_pytorch_tanh",
    "attention_k_eq_v": True,
    "head_dim": 8,
    "global_head_dim": HEAD_DIM,
    "num_key_value_heads": 4,
    "num_global_key_value_heads": N_HEAD_KV,
    "layer_types": [FULL] * N_LAYER,
    "sliding_window": 512,
    "rope_parameters": {
        FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
        SLIDING: {"rope_type": "default", "rope_theta": 1e4},
    },
    "block_size": 7,
    "target_layer_ids": IDS,
    "mask_token_id": MASK,
    "markov_rank": RANK,
}


def gemma4_layer() -> Shapes:
    """Keys are values too; norms around each half; a scale a layer."""
    layer = {name: shape for name, shape in layer_shapes().items() if "v_proj" not in name}
    norms = ("pre_feedforward_layernorm.weight", "post_feedforward_layernorm.weight")
    return {**layer, **dict.fromkeys(norms, (N_EMBD,)), "layer_scalar": (1,)}


MUSE: Config = {
    "architectures": ["MuseGlimmerAssistantModel"],
    **{name: value for name, value in QWEN3.items() if name not in ("rope_theta", "vocab_size")},
    "model_type": "muse_glimmer_assistant",
    "rope_parameters": ROPE_PARAMETERS,
    "sliding_window": 32,
    "layer_types": [SLIDING, FULL],
    "block_size": 8,
    "target_layer_ids": IDS,
    "mask_token_id": MASK,
}


def muse_shapes() -> Shapes:
    """Its own names for the way into the drafter."""
    names = {
        "fc.weight": "encoder.fc.weight",
        "hidden_norm.weight": "encoder.output_norm_enc.weight",
    }
    return {names.get(name, name): shape for name, shape in backbone().items()}


def mimo_layer() -> Shapes:
    """Sinks, one a head."""
    return {**layer_shapes(), "self_attn.attention_sink_bias": (N_HEAD,)}


MIMO = {"attention_value_scale": 0.707, "use_swa": True, "swa_window_size": 32}

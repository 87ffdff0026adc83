"""Random models of many architectures, by transformers; tiny_to_gguf.py writes them as GGUF.

Each has the tiny verifier's vocabulary, hidden size and number of layers, so that the tiny drafters
fit it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import torch
import transformers

from dflash_local.files.gguf_header import GGUFHeader

MODELS = Path(__file__).parents[1] / "models"
N_LAYER, N_EMBD, N_FF, N_HEAD, N_HEAD_KV, HEAD_DIM = 4, 64, 96, 4, 2, 16
N_EXPERTS, N_USED = 4, 2
WINDOW = 8
XIELU = 0.5  # the parameters of Apertus' activation, which GGUF has as keys
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
SIZES = {
    "num_hidden_layers": N_LAYER,
    "hidden_size": N_EMBD,
    "intermediate_size": N_FF,
    "num_attention_heads": N_HEAD,
    "num_key_value_heads": N_HEAD_KV,
    "head_dim": HEAD_DIM,
    **dict.fromkeys(("rms_norm_eps", "layer_norm_eps", "norm_eps", "norm_epsilon"), 1e-5),
    "rope_parameters": ROPE,
    "max_position_embeddings": 512,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": 2,
}


@dataclass(frozen=True)
class Tiny:
    """How to make a model of an architecture.

    Attributes:
        model: transformers' name of it, without "ForCausalLM".
        config: fields of its config beside the sizes.
        keys: what the GGUF has beside the sizes, as GGUFWriter's methods are called.
        norms_from_one: transformers has the norms' weights as their distance from 1.
        interleaved: GGUF has the halves of a head's rows of q and k by turns.
    """

    model: str
    config: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, Any] = field(default_factory=dict)
    norms_from_one: bool = False
    interleaved: bool = False


_WHOLE = {**ROPE, "partial_rotary_factor": 1.0}
_SLIDING, _FULL = "sliding_attention", "full_attention"
_SCALES = (
    {
        "attention_multiplier": 0.3,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.5,
        "logits_scaling": 2.0,
    },
    {"attention_scale": 0.3, "embedding_scale": 3.0, "residual_scale": 0.5, "logit_scale": 2.0},
)
_EXPERTS = (
    {"num_experts": N_EXPERTS, "num_experts_per_tok": N_USED},
    {"expert_count": N_EXPERTS, "expert_used_count": N_USED},
)
_GROUPED = (
    {
        "n_routed_experts": N_EXPERTS,
        "num_experts_per_tok": N_USED,
        "moe_intermediate_size": 48,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "routed_scaling_factor": 1.5,
        "norm_topk_prob": True,
        "n_group": 1,
        "topk_group": 1,
    },
    {
        **_EXPERTS[1],
        "leading_dense_block_count": 1,
        "expert_feed_forward_length": 48,
        "expert_shared_count": 1,
        "expert_weights_scale": 1.5,
        "expert_weights_norm": True,
        "expert_gating_func": gguf.ExpertGatingFuncType.SIGMOID,
    },
)
_YARN = (
    {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    },
    {
        "rope_scaling_type": gguf.RopeScalingType.YARN,
        "rope_scaling_factor": 4.0,
        "rope_scaling_orig_ctx_len": 16,
        "rope_scaling_yarn_beta_fast": 32.0,
        "rope_scaling_yarn_beta_slow": 1.0,
        "rope_scaling_yarn_log_mul": 1.0,
        "attn_temperature_scale": 0.1,
    },
)
_LATENT = (
    {
        "q_lora_rank": 32,
        "kv_lora_rank": 24,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": HEAD_DIM,
        "v_head_dim": HEAD_DIM,
        "head_dim": 8,
        "num_key_value_heads": N_HEAD,
        "norm_topk_prob": False,
    },
    {
        "head_count_kv": 1,
        "q_lora_rank": 32,
        "kv_lora_rank": 24,
        "key_length": 24 + 8,
        "value_length": 24,
        "key_length_mla": HEAD_DIM + 8,
        "value_length_mla": HEAD_DIM,
        "rope_dimension_count": 8,
        "expert_weights_norm": False,
        "expert_gating_func": gguf.ExpertGatingFuncType.SOFTMAX,
    },
)

TINY: dict[str, Tiny] = {
    "apertus": Tiny(
        "Apertus",
        keys={
            **dict.fromkeys(("xielu_alpha_p", "xielu_alpha_n", "xielu_beta"), [XIELU] * N_LAYER),
            "xielu_eps": [-1e-6] * N_LAYER,
        },
    ),
    "arcee": Tiny("Arcee", interleaved=True),
    "cohere2": Tiny(
        "Cohere2",
        {
            "logit_scale": 0.5,
            "sliding_window": WINDOW,
            "layer_types": [_SLIDING, _SLIDING, _SLIDING, _FULL],
        },
        {"logit_scale": 0.5, "sliding_window": WINDOW},
    ),
    "command-r": Tiny("Cohere", {"logit_scale": 0.5}, {"logit_scale": 0.5}),
    "deepseek2": Tiny("DeepseekV2", {**_GROUPED[0], **_LATENT[0]}, {**_GROUPED[1], **_LATENT[1]}),
    "dots1": Tiny("Dots1", {**_GROUPED[0], "num_key_value_heads": N_HEAD}, _GROUPED[1]),
    "ernie4_5": Tiny("Ernie4_5"),
    "ernie4_5-moe": Tiny(
        "Ernie4_5_Moe",
        {
            "moe_num_experts": N_EXPERTS,
            "moe_k": N_USED,
            "moe_num_shared_experts": 1,
            "moe_intermediate_size": 48,
            "moe_layer_start_index": 1,
        },
        {
            **_EXPERTS[1],
            "expert_feed_forward_length": 48,
            "expert_shared_feed_forward_length": 48,
            "interleave_moe_layer_step": 1,
            "leading_dense_block_count": 1,
        },
    ),
    "exaone4": Tiny("Exaone4", {"sliding_window": None, "layer_types": [_FULL] * N_LAYER}),
    "falcon": Tiny(
        "Falcon",
        {
            "new_decoder_architecture": True,
            "num_kv_heads": N_HEAD_KV,
            "ffn_hidden_size": N_FF,
            "layer_norm_epsilon": 1e-5,
        },
    ),
    "gemma": Tiny("Gemma", norms_from_one=True),
    "gemma2": Tiny(
        "Gemma2",
        {
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": HEAD_DIM,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        {
            "sliding_window": WINDOW,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        norms_from_one=True,
    ),
    "gemma3": Tiny(
        "Gemma3",
        {
            "layer_types": [_SLIDING, _FULL] * 2,
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": HEAD_DIM,
            "final_logit_softcapping": 30.0,
            "rope_parameters": {_SLIDING: ROPE, _FULL: ROPE},
        },
        {
            "sliding_window": WINDOW,
            "sliding_window_pattern": [True, False, True, False],
            "final_logit_softcapping": 30.0,
        },
        norms_from_one=True,
    ),
    "glm4": Tiny("Glm4", {}, {"rope_dimension_count": HEAD_DIM // 2}),
    "glm4moe": Tiny(
        "Glm4Moe",
        {**_GROUPED[0], "use_qk_norm": True},
        {**_GROUPED[1], "rope_dimension_count": HEAD_DIM // 2},
    ),
    "gptneox": Tiny(
        "GPTNeoX",
        {"num_key_value_heads": N_HEAD, "hidden_act": "gelu_new", "rope_parameters": _WHOLE},
        {"parallel_residual": True, "rope_dimension_count": HEAD_DIM},
    ),
    "granite": Tiny("Granite", *_SCALES, interleaved=True),
    "granitemoe": Tiny(
        "GraniteMoe",
        {**_SCALES[0], "num_local_experts": N_EXPERTS, "num_experts_per_tok": N_USED},
        {**_SCALES[1], **_EXPERTS[1]},
        interleaved=True,
    ),
    "hunyuan-dense": Tiny("HunYuanDenseV1"),
    "hunyuan-moe": Tiny(
        "HunYuanMoEV1",
        {"num_experts": N_EXPERTS, "moe_topk": N_USED},
        {**_EXPERTS[1], "expert_feed_forward_length": N_FF},
    ),
    "llama": Tiny("Llama", interleaved=True),
    "minimax-m2": Tiny(
        "MiniMaxM2",
        {"num_local_experts": N_EXPERTS, "num_experts_per_tok": N_USED, "rope_parameters": _WHOLE},
        {
            **_EXPERTS[1],
            "expert_feed_forward_length": N_FF,
            "expert_gating_func": gguf.ExpertGatingFuncType.SIGMOID,
        },
    ),
    "mistral3": Tiny("Ministral3", {"rope_parameters": _YARN[0]}, _YARN[1], interleaved=True),
    "nemotron": Tiny(
        "Nemotron",
        {},
        {
            "rope_dimension_count": HEAD_DIM // 2,
            "rope_scaling_type": gguf.RopeScalingType.NONE,
        },
        norms_from_one=True,
    ),
    "olmo": Tiny("Olmo", {"clip_qkv": None}, interleaved=True),
    "olmo2": Tiny("Olmo2"),
    "olmoe": Tiny("Olmoe", {**_EXPERTS[0], "num_key_value_heads": N_HEAD}, _EXPERTS[1]),
    "phi2": Tiny("Phi", {}, {"rope_dimension_count": HEAD_DIM // 2}),
    "phi3": Tiny(
        "Phi3",
        {
            "original_max_position_embeddings": 512,
            "rope_parameters": _WHOLE,
        },
    ),
    "qwen2": Tiny("Qwen2"),
    "qwen2moe": Tiny(
        "Qwen2Moe",
        {**_EXPERTS[0], "moe_intermediate_size": 48, "shared_expert_intermediate_size": 32},
        {
            **_EXPERTS[1],
            "expert_feed_forward_length": 48,
            "expert_shared_feed_forward_length": 32,
        },
    ),
    "qwen3": Tiny("Qwen3"),
    "qwen3moe": Tiny(
        "Qwen3Moe",
        {**_EXPERTS[0], "moe_intermediate_size": 48, "norm_topk_prob": True},
        {**_EXPERTS[1], "expert_feed_forward_length": 48},
    ),
    "seed_oss": Tiny("SeedOss"),
    "smollm3": Tiny("SmolLM3", interleaved=True),
    "stablelm": Tiny(
        "StableLm",
        {"rope_parameters": {**ROPE, "partial_rotary_factor": 0.25}},
        {"rope_dimension_count": HEAD_DIM // 4},
    ),
    "starcoder2": Tiny("Starcoder2", {"sliding_window": None}),
}


def make(architecture: str) -> Any:
    """The model in transformers, in F32: every weight is random, norms and biases too."""
    tiny = TINY[architecture]
    n_vocab = GGUFHeader(MODELS / "verifier-f32.gguf").length("tokenizer.ggml.tokens")
    kind = getattr(transformers, f"{tiny.model}ForCausalLM")
    fields = {"vocab_size": n_vocab, **SIZES, **tiny.config}
    if isinstance(getattr(kind.config_class, "head_dim", None), property):
        del fields["head_dim"]  # it follows from others
    config = kind.config_class(**fields)
    config._attn_implementation = "eager"
    model = kind(config).eval()
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, values in model.named_parameters():
            noise = torch.randn(values.shape, generator=random)
            if "act_fn" in name:
                values.fill_(XIELU)
            elif values.ndim == 1:
                values += 0.2 * noise
            else:
                values.copy_(noise if "embed" in name else noise * 1.5 / values.shape[-1] ** 0.5)
    return model

"""Random models of many architectures: by transformers, and the same weights as GGUF.

Each has the tiny verifier's tokenizer, hidden size and number of layers, so that the tiny drafters
fit it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import torch
import transformers
from torch import Tensor

from dflash_local.gguf_header import GGUFHeader

MODELS = Path(__file__).parent / "models"
N_LAYER, N_EMBD, N_FF, N_HEAD, N_HEAD_KV, HEAD_DIM = 4, 64, 96, 4, 2, 16
N_EXPERTS, N_USED = 4, 2
WINDOW = 8
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

_Tensors = Iterator[tuple[str, Tensor]]


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

TINY: dict[str, Tiny] = {
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
    "dots1": Tiny("Dots1", {**_GROUPED[0], "num_key_value_heads": N_HEAD}, _GROUPED[1]),
    "ernie4_5": Tiny("Ernie4_5"),
    "exaone4": Tiny("Exaone4", {"sliding_window": None, "layer_types": [_FULL] * N_LAYER}),
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
    "granite": Tiny("Granite", *_SCALES, interleaved=True),
    "granitemoe": Tiny(
        "GraniteMoe",
        {**_SCALES[0], "num_local_experts": N_EXPERTS, "num_experts_per_tok": N_USED},
        {**_SCALES[1], **_EXPERTS[1]},
        interleaved=True,
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
    "phi3": Tiny(
        "Phi3",
        {
            "original_max_position_embeddings": 512,
            "rope_parameters": {**ROPE, "partial_rotary_factor": 1.0},
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
    "seed_oss": Tiny("SeedOss"),
    "smollm3": Tiny("SmolLM3", interleaved=True),
    "stablelm": Tiny(
        "StableLm",
        {"rope_parameters": {**ROPE, "partial_rotary_factor": 0.25}},
        {"rope_dimension_count": HEAD_DIM // 4},
    ),
    "starcoder2": Tiny("Starcoder2", {"sliding_window": None}),
}

#: Names of transformers 5 that GGUF's table does not know, and those that it had before.
_RENAMED = {
    "block_sparse_moe.router.weight": "block_sparse_moe.router.layer.weight",
    "mlp.gate.e_score_correction_bias": "mlp.gate.e_score_correction.bias",
}


def make(architecture: str) -> Any:
    """The model in transformers, in F32: every weight is random, norms and biases too."""
    tiny = TINY[architecture]
    n_vocab = GGUFHeader(MODELS / "verifier-f32.gguf").length("tokenizer.ggml.tokens")
    kind = getattr(transformers, f"{tiny.model}ForCausalLM")
    config = kind.config_class(vocab_size=n_vocab, **{**SIZES, **tiny.config})
    config._attn_implementation = "eager"
    model = kind(config).eval()
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, values in model.named_parameters():
            noise = torch.randn(values.shape, generator=random)
            if values.ndim == 1:
                values += 0.2 * noise
            else:
                values.copy_(noise if "embed" in name else noise * 1.5 / values.shape[-1] ** 0.5)
    return model


def write(path: Path, architecture: str, model: Any) -> Path:
    """The model as GGUF."""
    tiny, config = TINY[architecture], model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(N_LAYER)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_layer_norm_eps(1e-5)
    for name, value in tiny.keys.items():
        getattr(writer, f"add_{name}")(value)
    _add_tokenizer(writer, GGUFHeader(MODELS / "verifier-f32.gguf"))
    for name, values in _tensors(architecture, model):
        writer.add_tensor(name, values.detach().float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter, source: GGUFHeader) -> None:
    writer.add_tokenizer_model(source.get("tokenizer.ggml.model"))
    writer.add_tokenizer_pre(source.get("tokenizer.ggml.pre"))
    writer.add_token_list(source.get("tokenizer.ggml.tokens"))
    writer.add_token_types(source.get("tokenizer.ggml.token_type"))
    writer.add_token_merges([merge.decode() for merge in source.get("tokenizer.ggml.merges")])
    writer.add_eos_token_id(source.get("tokenizer.ggml.eos_token_id"))
    writer.add_add_bos_token(False)


def _tensors(architecture: str, model: Any) -> _Tensors:
    tiny = TINY[architecture]
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[architecture], N_LAYER)
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    for whole, values in model.state_dict().items():
        if whole in tied:
            continue
        for name, part in _parts(whole, values):
            for new, old in _RENAMED.items():
                name = name.replace(new, old)
            stored = names.get_name(name, (".weight", ".bias"))
            assert stored, f"GGUF has no name for {architecture}'s {name}"
            if tiny.norms_from_one and name.endswith("norm.weight"):
                part = part + 1
            if tiny.interleaved and ("q_proj" in name or "k_proj" in name):
                part = _by_turns(part)
            yield stored, part


def _parts(name: str, values: Tensor) -> _Tensors:
    """Experts' gate and up are one tensor in transformers, two in GGUF."""
    layer = name.partition(".mlp.")[0].partition(".block_sparse_moe.")[0]
    if ".experts.gate_up_proj" in name or "block_sparse_moe.input_linear" in name:
        gate, up = values.chunk(2, dim=-2)
        yield f"{layer}.mlp.experts.gate_proj.weight", gate
        yield f"{layer}.mlp.experts.up_proj.weight", up
    elif ".experts.down_proj" in name or "block_sparse_moe.output_linear" in name:
        yield f"{layer}.mlp.experts.down_proj.weight", values
    else:
        yield name, values


def _by_turns(rows: Tensor) -> Tensor:
    halves = rows.view(-1, 2, HEAD_DIM // 2, rows.shape[-1])
    return halves.swapaxes(1, 2).reshape(rows.shape)

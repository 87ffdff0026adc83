"""The tiny models' GGUF and safetensors files: one table of names, written and read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from tiny_text import CHAT_TEMPLATE, END_OF_TEXT, IM_END, MASK, SPECIAL, Tokenizer
from tiny_torch import (
    EPS,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    KV_HEADS,
    ROPE_BASE,
    Drafter,
    DrafterConfig,
    Verifier,
)
from torch import Tensor, nn

N_CTX = 512
# Parts of torch names and of GGUF names, in the order they are replaced.
NAMES = (
    ("embed_tokens.", "token_embd."),
    ("candidate_selector.predecessor_codebook.", "selector_predecessor."),
    ("candidate_selector.successor_codebook.", "selector_successor."),
    ("candidate_selector.hidden_projection.", "selector_hidden."),
    ("markov_head.", ""),
    ("confidence_head.proj.", "conf_proj."),
    ("layers.", "blk."),
    ("self_attn.o_proj.", "attn_output."),
    ("self_attn.q_", "attn_q_"),
    ("self_attn.k_", "attn_k_"),
    ("self_attn.v_", "attn_v_"),
    ("attention_conv.base_kernel", "attn_conv_base"),
    ("mlp_conv.base_kernel", "ffn_conv_base"),
    ("attention_conv.kernel_projection.", "attn_conv_proj."),
    ("mlp_conv.kernel_projection.", "ffn_conv_proj."),
    ("mlp.", "ffn_"),
    ("input_layernorm.", "attn_norm."),
    ("post_attention_layernorm.", "ffn_norm."),
    ("hidden_norm.", "enc.output_norm."),
    ("_proj.", "."),
)


def gguf_name(name: str) -> str:
    if name == "norm.weight":
        return "output_norm.weight"
    for ours, theirs in NAMES[:-1]:
        name = name.replace(ours, theirs)
    keep = "conv_proj" in name or name.startswith("conf_proj")
    return name if keep else name.replace(*NAMES[-1])


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types([control if t in SPECIAL else normal for t in tokenizer.tokens])
    writer.add_token_merges([f"{a} {b}" for a, b in tokenizer.merges])
    writer.add_bos_token_id(END_OF_TEXT)
    writer.add_eos_token_id(IM_END)
    writer.add_add_bos_token(False)


def add_shape(
    writer: gguf.GGUFWriter,
    n_layer: int,
    n_ff: int,
    n_head: int = HEADS,
    n_head_kv: int = KV_HEADS,
    head_dim: int = HEAD_DIM,
) -> None:
    writer.add_context_length(N_CTX)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(n_layer)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(n_head)
    writer.add_head_count_kv(n_head_kv)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(EPS)
    writer.add_rope_freq_base(ROPE_BASE)


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tensors(writer: gguf.GGUFWriter, model: nn.Module, matrix: Any) -> None:
    """The weights: matrices in the type `matrix`, all else in F32."""
    for name, tensor in model.state_dict().items():
        keep = tensor.ndim == 1 or "base_kernel" in name
        writer.add_tensor(gguf_name(name), tensor.numpy().astype(np.float32 if keep else matrix))


def write_verifier(path: Path, model: Verifier, tokenizer: Tokenizer) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny verifier")
    add_shape(writer, len(model.layers), model.layers[0].mlp.up_proj.out_features)  # type: ignore
    writer.add_vocab_size(len(tokenizer.tokens))
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    add_tokenizer(writer, tokenizer)
    writer.add_chat_template(CHAT_TEMPLATE)
    add_tensors(writer, model, np.float32)
    finish(writer)


def write_drafter(
    path: Path, model: Drafter, tokenizer: Tokenizer, head: tuple[Tensor, Tensor] | None = None
) -> None:
    """Write a drafter in F16; `head`: an output of its own [draft_V, H], and its tokens."""
    config = model.config
    writer = gguf.GGUFWriter(path, "dflash")
    writer.add_name(f"tiny {path.stem}")
    add_shape(writer, config.n_layer, config.n_ff)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_uint32("dflash.block_size", config.block_size)
    writer.add_array("dflash.target_layers", list(config.target_layers))
    if config.kind == "dflash2":
        writer.add_uint32("dflash.conv_kernel_size", config.conv_kernel)
        writer.add_uint32("dflash.conv_group_size", config.conv_group)
        writer.add_uint32("dflash.selector_rank", config.rank)
        writer.add_uint32("dflash.selector_top_k", config.top_k)
    if config.kind == "dspark":
        writer.add_bool("dflash.sample_from_anchor", config.sample_from_anchor)
        writer.add_bool("dflash.has_confidence_head", True)
    add_tokenizer(writer, tokenizer)
    writer.add_mask_token_id(MASK)
    add_tensors(writer, model, np.float16)
    if head is not None:
        writer.add_tensor("output.weight", head[0].numpy().astype(np.float16))
        writer.add_tensor("d2t", head[1].numpy().astype(np.int64))
    finish(writer)


def write_checkpoint(folder: Path, model: Drafter, n_target_layers: int) -> None:
    """The published layout: config.json and BF16 safetensors."""
    config = model.config
    folder.mkdir(exist_ok=True)
    save_file(
        {k: v.to(torch.bfloat16).contiguous() for k, v in model.state_dict().items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    fields: dict[str, Any] = {
        "architectures": ["DFlashDraftModel"],
        "model_type": "qwen3",
        "block_size": config.block_size,
        "num_hidden_layers": config.n_layer,
        "num_target_layers": n_target_layers,
        "hidden_size": HIDDEN,
        "intermediate_size": config.n_ff,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "rms_norm_eps": EPS,
        "rope_theta": ROPE_BASE,
        "rope_scaling": None,
        "max_position_embeddings": N_CTX,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "vocab_size": config.n_vocab,
        "tie_word_embeddings": True,
        "layer_types": ["full_attention"] * config.n_layer,
        "use_sliding_window": False,
        "sliding_window": None,
        "torch_dtype": "bfloat16",
        "bos_token_id": END_OF_TEXT,
        "eos_token_id": IM_END,
        "dflash_config": {
            "mask_token_id": config.mask_id,
            "target_layer_ids": [i - 1 for i in config.target_layers],  # outputs of layers
        },
    }
    (folder / "config.json").write_text(json.dumps(fields, indent=2) + "\n")


def write_without_layer_inputs(path: Path, tokenizer: Tokenizer) -> None:
    """A random gemma3: libllama loads and runs it, but its graph gives no layer inputs."""
    rng = np.random.default_rng(0)
    n_layer, n_ff, n_vocab, head_dim = 4, 8, len(tokenizer.tokens), 8
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_name("tiny verifier without layer inputs")
    add_shape(writer, n_layer, n_ff, n_head=1, n_head_kv=1, head_dim=head_dim)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    add_tokenizer(writer, tokenizer)
    writer.add_chat_template(CHAT_TEMPLATE)

    def matrix(name: str, n_out: int, n_in: int) -> None:
        weight = rng.normal(0, n_in**-0.5, (n_out, n_in)).astype(np.float16)
        writer.add_tensor(f"{name}.weight", weight)

    def norm(name: str, n: int) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(n, np.float32))

    matrix("token_embd", n_vocab, HIDDEN)
    norm("output_norm", HIDDEN)
    for blk in (f"blk.{i}." for i in range(n_layer)):
        for part in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            norm(blk + part, HIDDEN)
        for part in ("attn_q", "attn_k", "attn_v"):
            matrix(blk + part, head_dim, HIDDEN)
        norm(blk + "attn_q_norm", head_dim)
        norm(blk + "attn_k_norm", head_dim)
        matrix(blk + "attn_output", HIDDEN, head_dim)
        matrix(blk + "ffn_gate", n_ff, HIDDEN)
        matrix(blk + "ffn_up", n_ff, HIDDEN)
        matrix(blk + "ffn_down", HIDDEN, n_ff)
    finish(writer)


def _weights(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    state = {}
    for name, old in model.state_dict().items():
        state[name] = tensors[gguf_name(name)].view(old.shape)
    model.load_state_dict(state)
    model.requires_grad_(False)


def _read(path: Path) -> tuple[Any, dict[str, Tensor]]:
    reader = gguf.GGUFReader(path)

    def field(key: str, default: Any = None) -> Any:
        entry = reader.get_field(key)
        return default if entry is None else entry.contents()

    return field, {t.name: torch.from_numpy(np.array(t.data)).float() for t in reader.tensors}


def read_verifier(path: Path) -> Verifier:
    field, tensors = _read(path)
    shape = field("llama.block_count"), field("llama.feed_forward_length")
    model = Verifier(len(tensors["token_embd.weight"]), *shape)
    _weights(model, tensors)
    return model


def read_drafter(path: Path) -> tuple[Drafter, Tensor | None]:
    """The drafter, and the token ids it can propose if its vocabulary is reduced."""
    field, tensors = _read(path)
    kinds = {"markov_w1.weight": "dspark", "selector_hidden.weight": "dflash2"}
    kind = next((k for name, k in kinds.items() if name in tensors), "dflash")
    config = DrafterConfig(
        kind=kind,
        block_size=field("dflash.block_size"),
        mask_id=field("tokenizer.ggml.mask_token_id"),
        n_vocab=len(field("tokenizer.ggml.tokens")),
        target_layers=tuple(field("dflash.target_layers")),
        n_layer=field("dflash.block_count"),
        n_ff=field("dflash.feed_forward_length"),
        sample_from_anchor=field("dflash.sample_from_anchor", False),
    )
    model = Drafter(config)
    _weights(model, tensors)
    return model, tensors["d2t"].long() if "d2t" in tensors else None


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a GGUF file, as ours."""
    merges = gguf.GGUFReader(path).get_field("tokenizer.ggml.merges")
    assert merges is not None
    pairs = [line.split(" ") for line in merges.contents()]
    return Tokenizer([(a, b) for a, b in pairs])

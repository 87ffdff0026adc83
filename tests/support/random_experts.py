"""A mixture of experts with random weights that libllama runs, with the tiny models' tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from dflash_local.files.gguf_header import GGUFHeader

N_EMBD, N_FF, N_HEAD, N_HEAD_KV, N_LAYER = 64, 128, 4, 2, 4
N_EXPERTS, N_USED = 8, 2


def write_experts(path: Path, tokenizer: GGUFHeader) -> None:
    """A llama whose rows choose two of eight experts in each layer."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(N_LAYER)
    writer.add_context_length(512)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_HEAD_KV)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(N_EMBD // N_HEAD)
    writer.add_expert_count(N_EXPERTS)
    writer.add_expert_used_count(N_USED)
    tokens = tokenizer.get("tokenizer.ggml.tokens")
    writer.add_tokenizer_model(tokenizer.get("tokenizer.ggml.model"))
    writer.add_tokenizer_pre(tokenizer.get("tokenizer.ggml.pre"))
    writer.add_token_list(tokens)
    writer.add_token_types(tokenizer.get("tokenizer.ggml.token_type"))
    writer.add_token_merges([merge.decode() for merge in tokenizer.get("tokenizer.ggml.merges")])
    writer.add_eos_token_id(tokenizer.get("tokenizer.ggml.eos_token_id"))
    for name, values in _tensors(len(tokens)):
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(n_vocab: int) -> Iterator[tuple[str, Any]]:
    random = np.random.default_rng(11)

    def matrix(*shape: int) -> Any:
        return random.normal(0, 1.5 / shape[-1] ** 0.5, shape).astype(np.float32)

    norm = np.ones(N_EMBD, np.float32)
    yield "token_embd.weight", matrix(n_vocab, N_EMBD) * 4
    yield "output.weight", matrix(n_vocab, N_EMBD)
    yield "output_norm.weight", norm
    n_kv = N_HEAD_KV * N_EMBD // N_HEAD
    for layer in range(N_LAYER):
        prefix = f"blk.{layer}."
        yield prefix + "attn_norm.weight", norm
        yield prefix + "ffn_norm.weight", norm
        for name, n_out in (("q", N_EMBD), ("k", n_kv), ("v", n_kv), ("output", N_EMBD)):
            yield f"{prefix}attn_{name}.weight", matrix(n_out, N_EMBD)
        yield prefix + "ffn_gate_inp.weight", matrix(N_EXPERTS, N_EMBD)
        yield prefix + "ffn_gate_exps.weight", matrix(N_EXPERTS, N_FF, N_EMBD)
        yield prefix + "ffn_up_exps.weight", matrix(N_EXPERTS, N_FF, N_EMBD)
        yield prefix + "ffn_down_exps.weight", matrix(N_EXPERTS, N_EMBD, N_FF)

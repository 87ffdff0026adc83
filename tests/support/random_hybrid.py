"""A hybrid verifier with random weights that libllama runs, with the tiny models' tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from dflash_local.files.gguf_header import GGUFHeader

N_EMBD, N_FF, N_HEAD, N_HEAD_KV, CONV = 64, 128, 4, 2, 3
LAYERS = ("conv", "attention", "conv", "attention")


def write_lfm2(path: Path, tokenizer: GGUFHeader) -> None:
    """A random LFM2: short convolutions and attention in turn, with the tiny models' tokenizer."""
    writer = gguf.GGUFWriter(path, "lfm2")
    writer.add_block_count(len(LAYERS))
    writer.add_context_length(512)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv([N_HEAD_KV if kind == "attention" else 0 for kind in LAYERS])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_shortconv_l_cache(CONV)
    tokens = tokenizer.get("tokenizer.ggml.tokens")
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model(tokenizer.get("tokenizer.ggml.model"))
    writer.add_tokenizer_pre(tokenizer.get("tokenizer.ggml.pre"))
    writer.add_token_list(tokens)
    writer.add_token_types(tokenizer.get("tokenizer.ggml.token_type"))
    writer.add_token_merges([m.decode() for m in tokenizer.get("tokenizer.ggml.merges")])
    writer.add_eos_token_id(tokenizer.get("tokenizer.ggml.eos_token_id"))
    for name, values in lfm2_tensors(len(tokens)).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def lfm2_tensors(n_vocab: int) -> dict[str, Any]:
    rng = np.random.default_rng(7)

    def matrix(rows: int, columns: int) -> Any:
        scale = 1.5 / np.sqrt(columns)
        return (rng.standard_normal((rows, columns)) * scale).astype(np.float32)

    head_dim = N_EMBD // N_HEAD
    tensors = {
        "token_embd.weight": matrix(n_vocab, N_EMBD) * 4,
        "token_embd_norm.weight": np.ones(N_EMBD, np.float32),
    }
    for i, kind in enumerate(LAYERS):
        prefix = f"blk.{i}."
        tensors |= {
            prefix + "attn_norm.weight": np.ones(N_EMBD, np.float32),
            prefix + "ffn_norm.weight": np.ones(N_EMBD, np.float32),
            prefix + "ffn_gate.weight": matrix(N_FF, N_EMBD),
            prefix + "ffn_up.weight": matrix(N_FF, N_EMBD),
            prefix + "ffn_down.weight": matrix(N_EMBD, N_FF),
        }
        if kind == "conv":
            tensors |= {
                prefix + "shortconv.conv.weight": matrix(N_EMBD, CONV),
                prefix + "shortconv.in_proj.weight": matrix(3 * N_EMBD, N_EMBD),
                prefix + "shortconv.out_proj.weight": matrix(N_EMBD, N_EMBD),
            }
            continue
        tensors |= {
            prefix + "attn_q.weight": matrix(N_EMBD, N_EMBD),
            prefix + "attn_k.weight": matrix(N_HEAD_KV * head_dim, N_EMBD),
            prefix + "attn_v.weight": matrix(N_HEAD_KV * head_dim, N_EMBD),
            prefix + "attn_output.weight": matrix(N_EMBD, N_EMBD),
            prefix + "attn_q_norm.weight": np.ones(head_dim, np.float32),
            prefix + "attn_k_norm.weight": np.ones(head_dim, np.float32),
        }
    return tensors

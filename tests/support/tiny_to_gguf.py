"""Writes the models of tiny_architectures.py as GGUF."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import torch
from tiny_architectures import HEAD_DIM, MODELS, N_EMBD, N_FF, N_HEAD, N_LAYER, TINY
from torch import Tensor

from dflash_local.files.gguf_header import GGUFHeader

_Tensors = Iterator[tuple[str, Tensor]]

#: What every file has, as GGUFWriter's methods are called.
_KEYS = {
    "block_count": N_LAYER,
    "context_length": 512,
    "embedding_length": N_EMBD,
    "feed_forward_length": N_FF,
    "head_count": N_HEAD,
    "key_length": HEAD_DIM,
    "value_length": HEAD_DIM,
    "rope_freq_base": 10000.0,
    "layer_norm_rms_eps": 1e-5,
    "layer_norm_eps": 1e-5,
}
#: Names of transformers 5 that GGUF's table does not know, and those that it had before.
_RENAMED = {
    "block_sparse_moe.router.weight": "block_sparse_moe.router.layer.weight",
    "mlp.gate.e_score_correction_bias": "mlp.gate.e_score_correction.bias",
    "mlp.e_score_correction_bias": "mlp.e_score_correction.bias",
    "mlp.gate.moe_statics.e_score_correction_bias": "mlp.moe_statics.e_score_correction.bias",
}


def write(path: Path, architecture: str, model: Any) -> Path:
    """The model as GGUF."""
    tiny = TINY[architecture]
    writer = gguf.GGUFWriter(path, architecture)
    n_kv = {"head_count_kv": model.config.num_key_value_heads}
    for name, value in {**_KEYS, **n_kv, **tiny.keys}.items():
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
        if whole in tied or "act_fn" in whole:
            continue
        for name, part in _parts(whole, values, model.config):
            for new, old in _RENAMED.items():
                name = name.replace(new, old)
            stored = names.get_name(name, (".weight", ".bias"))
            assert stored, f"GGUF has no name for {architecture}'s {name}"
            if tiny.norms_from_one and name.endswith("norm.weight"):
                part = part + 1
            if tiny.interleaved and ("q_proj" in name or "k_proj" in name):
                part = _by_turns(part)
            yield stored, part


def _parts(name: str, values: Tensor, config: Any) -> _Tensors:
    """The tensors that GGUF makes of one in transformers, as transformers names them."""
    layer = name.partition(".mlp.")[0].partition(".block_sparse_moe.")[0]
    if ".experts.gate_up_proj" in name or "block_sparse_moe.input_linear" in name:
        gate, up = values.chunk(2, dim=-2)
        yield f"{layer}.mlp.experts.gate_proj.weight", gate
        yield f"{layer}.mlp.experts.up_proj.weight", up
    elif ".experts.down_proj" in name or "block_sparse_moe.output_linear" in name:
        yield f"{layer}.mlp.experts.down_proj.weight", values
    elif "query_key_value" in name:
        yield name, _by_kind(values, config.num_key_value_heads)
    elif "kv_b_proj" in name:
        rows = values.view(N_HEAD, -1, values.shape[-1])
        keys, others = rows.split([config.qk_nope_head_dim, config.v_head_dim], dim=1)
        yield name.replace("kv_b", "k_b"), keys.swapaxes(1, 2)
        yield name.replace("kv_b", "v_b"), others
    else:
        yield name, values


def _by_kind(rows: Tensor, n_kv: int) -> Tensor:
    """Rows of q, k and v that lie by heads of k: all of q, then all of k, then all of v."""
    heads = rows.view(n_kv, N_HEAD // n_kv + 2, HEAD_DIM, *rows.shape[1:])
    kinds = heads[:, :-2], heads[:, -2], heads[:, -1]
    return torch.cat([kind.reshape(-1, *rows.shape[1:]) for kind in kinds])


def _by_turns(rows: Tensor) -> Tensor:
    halves = rows.view(-1, 2, HEAD_DIM // 2, rows.shape[-1])
    return halves.swapaxes(1, 2).reshape(rows.shape)

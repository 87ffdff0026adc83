"""Weights of the tiny trained drafters, by the names that trainers publish, and rewritten."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from layout_files import Array

MODELS = Path(__file__).parents[1] / "models"
MASK, N_VOCAB, HEAD_DIM = 3, 384, 16

# GGUF names and published ones, whole or in part.
NAMES = {
    "enc.output_norm": "hidden_norm",
    "attn_output": "self_attn.o_proj",
    "output_norm": "norm",
    "output.weight": "lm_head.weight",
    "token_embd": "embed_tokens",
    "blk.": "layers.",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_conv_base": "attention_conv.base_kernel",
    "attn_conv_proj": "attention_conv.kernel_projection",
    "ffn_conv_base": "mlp_conv.base_kernel",
    "ffn_conv_proj": "mlp_conv.kernel_projection",
    "selector_predecessor.weight": "candidate_selector.predecessor_codebook",
    "selector_successor.weight": "candidate_selector.successor_codebook",
    "selector_hidden": "candidate_selector.hidden_projection",
    "conf_proj": "confidence_head.proj",
    "markov_": "markov_head.markov_",
    **{f"attn_{x}_norm": f"self_attn.{x}_norm" for x in "qk"},
    **{f"attn_{x}.": f"self_attn.{x}_proj." for x in "qkv"},
    **{f"ffn_{x}.": f"mlp.{x}_proj." for x in ("gate", "up", "down")},
}

Weights = dict[str, Array]


def read_weights(name: str) -> Weights:
    """A tiny model's tensors in F32 by their published names."""
    tensors = gguf.GGUFReader(MODELS / f"{name}.gguf").tensors
    return {_published(tensor.name): _array(tensor) for tensor in tensors}


def _published(name: str) -> str:
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return name


def _array(tensor: Any) -> Array:
    kind = np.int64 if tensor.name == "d2t" else np.float32
    return np.array(tensor.data).astype(kind)


def f32_edition(original: str, path: Path, zero: tuple[str, ...] = ()) -> Path:
    """A tiny drafter's file with every weight in F32, and some of them zero."""
    reader = gguf.GGUFReader(MODELS / f"{original}.gguf")
    writer = gguf.GGUFWriter(path, "dflash")
    for name, key in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            item = key.types[-1] if len(key.types) > 1 else None
            writer.add_key_value(name, key.contents(), key.types[0], item)
    for tensor in reader.tensors:
        array = _array(tensor)
        writer.add_tensor(tensor.name, np.zeros_like(array) if tensor.name in zero else array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def verifiers_own() -> Weights:
    """The verifier's embedding, and the same as a head of its own."""
    embedding = read_weights("verifier-f32")["embed_tokens.weight"]
    return {"embed_tokens.weight": embedding, "lm_head.weight": embedding}


def reduced() -> Weights:
    """The drafter with a head for 112 tokens, published as speculators does: with offsets."""
    weights = read_weights("dflash-b8-d2t")
    ids = weights["d2t"]
    t2d = np.zeros(N_VOCAB, np.bool_)
    t2d[ids] = True
    tables = {"d2t": ids - np.arange(len(ids)), "t2d": t2d}
    embedding = verifiers_own()["embed_tokens.weight"]
    return {**weights, **tables, "embed_tokens.weight": embedding}


def interleaved(weights: Weights) -> Weights:
    """Rotary pairs as neighbours, where the tiny drafters have them half a head apart."""

    def neighbours(array: Array) -> Array:
        halves = array.reshape(-1, 2, HEAD_DIM // 2, *array.shape[1:])
        return halves.swapaxes(1, 2).reshape(array.shape)

    parts = ("q_proj", "k_proj", "q_norm", "k_norm")
    return {
        name: neighbours(array) if any(part in name for part in parts) else array
        for name, array in weights.items()
    }


def renamed(weights: Weights, names: Mapping[str, str]) -> Weights:
    """The same under other names, where another is given."""
    return {names.get(name, name): array for name, array in weights.items()}


def mimo(weights: Weights) -> Weights:
    """Outputs twice as large, for a value scale of a half; sinks that attract nobody."""
    output = "layers.0.self_attn.o_proj.weight"
    sinks = {"layers.0.self_attn.attention_sink_bias": np.full(4, -1e4, np.float32)}
    return {**weights, output: 2 * weights[output], **sinks}

"""Tiny checkpoints and verifiers for the converter's tests, written from numbers alone."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

N_EMBD, N_FF, N_HEAD, N_HEAD_KV, HEAD_DIM, N_LAYER = 64, 96, 4, 2, 16, 2
N_VERIFIER_LAYERS = 10
TARGET_LAYER_IDS = [1, 4, 8]
MASK = 258

CONFIG: dict[str, Any] = {
    "architectures": ["DFlashDraftModel"],
    "model_type": "qwen3",
    "block_size": 8,
    "num_hidden_layers": N_LAYER,
    "num_target_layers": N_VERIFIER_LAYERS,
    "hidden_size": N_EMBD,
    "intermediate_size": N_FF,
    "num_attention_heads": N_HEAD,
    "num_key_value_heads": N_HEAD_KV,
    "head_dim": HEAD_DIM,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 500000.0,
    "rope_scaling": None,
    "max_position_embeddings": 2048,
    "attention_bias": False,
    "tie_word_embeddings": True,
    "dflash_config": {"mask_token_id": MASK, "target_layer_ids": TARGET_LAYER_IDS},
}

DTYPES = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I64": "<i8"}


def config(dflash: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """CONFIG with changes; None as a value removes the field."""
    nested = _without_none({**CONFIG["dflash_config"], **(dflash or {})})
    return _without_none({**CONFIG, "dflash_config": nested, **changes})


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def shapes() -> dict[str, tuple[int, ...]]:
    """Published names and shapes of the checkpoint CONFIG describes."""
    n_q, n_kv = N_HEAD * HEAD_DIM, N_HEAD_KV * HEAD_DIM
    layer = {
        "input_layernorm": (N_EMBD,),
        "post_attention_layernorm": (N_EMBD,),
        "self_attn.q_proj": (n_q, N_EMBD),
        "self_attn.k_proj": (n_kv, N_EMBD),
        "self_attn.v_proj": (n_kv, N_EMBD),
        "self_attn.o_proj": (N_EMBD, n_q),
        "self_attn.q_norm": (HEAD_DIM,),
        "self_attn.k_norm": (HEAD_DIM,),
        "mlp.gate_proj": (N_FF, N_EMBD),
        "mlp.up_proj": (N_FF, N_EMBD),
        "mlp.down_proj": (N_EMBD, N_FF),
    }
    return {
        "fc.weight": (N_EMBD, len(TARGET_LAYER_IDS) * N_EMBD),
        "hidden_norm.weight": (N_EMBD,),
        "norm.weight": (N_EMBD,),
        **{f"layers.{i}.{k}.weight": v for i in range(N_LAYER) for k, v in layer.items()},
    }


def tensors(seed: int = 0, **extra: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Random weights for `shapes`, and for more names where given (dots as double underscores)."""
    random = np.random.default_rng(seed)
    named = {name.replace("__", "."): shape for name, shape in extra.items()}
    return {
        name: random.normal(0, 0.1, shape).astype(np.float32)
        for name, shape in {**shapes(), **named}.items()
    }


def bf16_bits(values: np.ndarray) -> np.ndarray:
    """Round to nearest even, as hardware does."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def safetensors_bytes(weights: dict[str, np.ndarray], dtype: str = "F32") -> bytes:
    """A safetensors file; the tensors lie in the order given."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blobs: list[bytes] = []
    for name, values in weights.items():
        data = bf16_bits(values) if dtype == "BF16" else values.astype(DTYPES[dtype])
        start = sum(map(len, blobs))
        blobs.append(data.tobytes())
        span = [start, start + len(blobs[-1])]
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": span}
    return with_header(json.dumps(header).encode(), b"".join(blobs))


def with_header(header: bytes, data: bytes) -> bytes:
    """The frame of a safetensors file."""
    return struct.pack("<Q", len(header)) + header + data


def checkpoint(
    folder: Path,
    settings: dict[str, Any] | None = None,
    weights: dict[str, np.ndarray] | None = None,
    dtype: str = "F32",
) -> Path:
    """Write config.json and model.safetensors into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config() if settings is None else settings))
    data = safetensors_bytes(tensors() if weights is None else weights, dtype)
    (folder / "model.safetensors").write_bytes(data)
    return folder


def vocabulary() -> list[bytes]:
    """256 byte tokens in GPT-2's spelling, two merges, end of text, a mask, one broken string."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in letters)
    letters.update({byte: chr(256 + i) for i, byte in enumerate(others)})
    single = [letters[byte].encode() for byte in range(256)]
    return [*single, b"th", b"<|endoftext|>", b"<mask>", b"\xff\xfe"]


def verifier(
    path: Path,
    *,
    arch: str = "llama",
    n_embd: int = N_EMBD,
    n_layer: int = N_VERIFIER_LAYERS,
    head: bool = False,
    extra: dict[str, Any] | None = None,
    split: int = 0,
) -> Path:
    """Write a verifier's GGUF: a real byte-level tokenizer, and an embedding full of zeros."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = Writer(path, arch, split_max_tensors=split)
    writer.add_name("Tiny Verifier")
    writer.add_organization("Nobody")
    writer.add_block_count(n_layer)
    writer.add_embedding_length(n_embd)
    for key, value in (extra or {}).items():
        add = writer.add_array if isinstance(value, list) else writer.add_uint32
        add(key, value)
    _add_tokenizer(writer)
    n_vocab = len(vocabulary())
    writer.add_tensor("token_embd.weight", np.zeros((n_vocab, n_embd), np.float32))
    if head:
        writer.add_tensor("output.weight", np.zeros((n_vocab, n_embd), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


EMPTY_ARRAY = struct.pack("<IIQ", gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.STRING, 0)


@dataclass(frozen=True)
class Raw:
    """A value as it is stored; gguf's own writer has no empty arrays."""

    data: bytes


class Writer(gguf.GGUFWriter):
    """A GGUFWriter that takes `Raw` values."""

    def _pack_val(self, val: Any, *args: Any, **kwargs: Any) -> bytes:
        return val.data if isinstance(val, Raw) else super()._pack_val(val, *args, **kwargs)


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    kind = gguf.GGUFValueType
    tokens = vocabulary()
    types = [1] * 257 + [3, 3, 1]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_key_value("tokenizer.ggml.tokens", tokens, kind.ARRAY, kind.STRING)
    writer.add_key_value("tokenizer.ggml.token_type", types, kind.ARRAY, kind.INT32)
    writer.add_key_value("tokenizer.ggml.scores", [0.1] * len(tokens), kind.ARRAY, kind.FLOAT32)
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(257)
    writer.add_mask_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_key_value("tokenizer.ggml.empty", Raw(EMPTY_ARRAY), kind.ARRAY)
    writer.add_chat_template(
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}é\n{% endfor %}"
    )


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys with their values, and tensors, of a GGUF file that Python can decode."""
    reader = gguf.GGUFReader(path)
    hidden = ("GGUF.", "tokenizer.ggml.tokens")
    keys = {
        name: field.contents()
        for name, field in reader.fields.items()
        if not name.startswith(hidden)
    }
    return keys, {tensor.name: tensor for tensor in reader.tensors}


def raw_keys(path: Path, prefix: str) -> dict[str, bytes]:
    """Keys with their stored bytes: type, length, values."""
    reader = gguf.GGUFReader(path)
    return {
        name: b"".join(part.tobytes() for part in field.parts[2:])
        for name, field in reader.fields.items()
        if name.startswith(prefix)
    }


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(path.name for path in folder.iterdir())

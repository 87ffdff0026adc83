"""GGUF files of llama.cpp's forks, made from a good drafter: what their converters write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from dflash_local.files.gguf_header import GGUFHeader

U32, I32 = gguf.GGUFValueType.UINT32, gguf.GGUFValueType.INT32
MASK_KEY = "tokenizer.ggml.mask_token_id"

Keys = dict[str, tuple[Any, list[gguf.GGUFValueType]]]
Tensors = dict[str, tuple[Any, gguf.GGMLQuantizationType]]


def read(path: Path) -> tuple[Keys, Tensors]:
    """Keys with their types, tensors as they are stored."""
    reader = gguf.GGUFReader(path)
    fields = [field for field in reader.fields.values() if not field.name.startswith("GGUF.")]
    keys = {field.name: (field.contents(), field.types) for field in fields}
    return keys, {t.name: (np.array(t.data), t.tensor_type) for t in reader.tensors}


def write(path: Path, architecture: str, keys: Keys, tensors: Tensors) -> Path:
    """A GGUF of these keys and tensors; None as a value leaves a key out."""
    writer = gguf.GGUFWriter(path, architecture)
    for name, (value, (kind, *item)) in keys.items():
        if name != "general.architecture" and value is not None:
            writer.add_key_value(name, value, kind, item[0] if item else None)
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def renamed(entries: Mapping[str, Any], name: Callable[[str], str]) -> dict[str, Any]:
    return {name(key): value for key, value in entries.items()}


def buun(source: Path, path: Path, **changes: Any) -> Path:
    """``dflash-draft``, as buun-llama.cpp and beellama.cpp write it."""
    keys, tensors = read(source)
    layers, mask = keys.pop("dflash.target_layers")[0], keys.pop(MASK_KEY)[0]
    prefix = "dflash-draft"
    keys = renamed(keys, lambda key: key.replace("dflash.", f"{prefix}.", 1))
    n_embd = keys[f"{prefix}.embedding_length"][0]
    ids = [layer - 1 for layer in layers]
    keys |= {
        f"{prefix}.attention.causal": (False, [gguf.GGUFValueType.BOOL]),
        f"{prefix}.dflash.block_size": keys.pop(f"{prefix}.block_size"),
        f"{prefix}.dflash.mask_token_id": (mask, [U32]),
        f"{prefix}.dflash.target_layer_ids": (ids, [gguf.GGUFValueType.ARRAY, I32]),
        f"{prefix}.dflash.n_target_features": (len(ids) * n_embd, [U32]),
    }
    return write(path, prefix, _changed(keys, changes), renamed(tensors, _buun_tensor))


def _buun_tensor(name: str) -> str:
    names = {
        "fc.weight": "dflash_fc.weight",
        "enc.output_norm.weight": "dflash_hidden_norm.weight",
    }
    return names.get(name, name.replace("ffn_norm", "post_attention_norm"))


def lucebox(source: Path, path: Path, **changes: Any) -> Path:
    """``qwen35-dflash-draft``, as Lucebox writes it: without a tokenizer."""
    keys, tensors = read(source)
    prefix = "qwen35-dflash-draft"
    layers, mask = keys.pop("dflash.target_layers")[0], keys.pop(MASK_KEY)[0]
    keys = {key: value for key, value in keys.items() if not key.startswith("tokenizer.")}
    keys = renamed(keys, lambda key: key.replace("dflash.", f"{prefix}.", 1))
    ids = [layer - 1 for layer in layers]
    keys |= {
        f"{prefix}.vocab_size": (384, [U32]),
        f"{prefix}.dflash.n_target_layers": (len(ids), [U32]),
        f"{prefix}.dflash.block_size": keys.pop(f"{prefix}.block_size"),
        f"{prefix}.dflash.mask_token_id": (mask, [U32]),
        f"{prefix}.dflash.target_layer_ids": (ids, [gguf.GGUFValueType.ARRAY, I32]),
    }
    names = {"fc.weight": "dflash.fc.weight", "enc.output_norm.weight": "dflash.hidden_norm.weight"}
    return write(path, prefix, _changed(keys, changes), renamed(tensors, lambda n: names.get(n, n)))


def early(source: Path, path: Path, **changes: Any) -> Path:
    """``dflash`` with the mask token among its own keys, as upstream's first version wrote it."""
    keys, tensors = read(source)
    keys["dflash.mask_token_id"] = keys.pop(MASK_KEY)
    return write(path, "dflash", _changed(keys, changes), tensors)


def _changed(keys: Keys, changes: Mapping[str, Any]) -> Keys:
    """Keys with changes: dots as double underscores; a value, or a value and its types."""
    for name, value in changes.items():
        key = name.replace("__", ".").replace("fork.", "dflash-draft.")
        keys[key] = value if isinstance(value, tuple) else (value, keys[key][1])
    return keys


def values(path: Path) -> dict[str, Any]:
    """Keys and their values."""
    header = GGUFHeader(path)
    return {key: header.get(key) for key in header}


Dialect = Callable[..., Path]

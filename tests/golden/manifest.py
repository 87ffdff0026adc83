"""What a drafter's GGUF holds, in JSON: keys with types and values, tensors with a digest each.

Left out are the tokenizer (of another verifier here than upstream's), and what follows from the
names of folders and from the version of the writer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

OUT_TYPES = ("f32", "f16", "bf16", "q8_0")
GENERAL = ("architecture", "type", "size_label", "quantization_version")
MASK_TOKEN = "tokenizer.ggml.mask_token_id"

Manifest = dict[str, Any]


def manifest(files: Mapping[str, Path]) -> Manifest:
    """Of one checkpoint's conversions, by outtype."""
    readers = {outtype: _reader(files[outtype]) for outtype in OUT_TYPES}
    keys = [_keys(reader) for reader in readers.values()]
    assert all(other == keys[0] for other in keys), "the outtype changes keys"
    tensors: dict[str, dict[str, Any]] = {}
    for outtype, reader in readers.items():
        for tensor in reader.tensors:
            entry = tensors.setdefault(tensor.name, {"shape": tensor.shape.tolist()})
            entry[outtype] = [tensor.tensor_type.name, digest(tensor.data)]
    return {"keys": keys[0], "tensors": tensors}


def digest(data: np.ndarray[Any, Any]) -> str:
    """The first 16 digits of the SHA-256 of the stored bytes."""
    return hashlib.sha256(np.ascontiguousarray(data).tobytes()).hexdigest()[:16]


def dump(content: Manifest) -> str:
    """JSON with a line an entry, sorted."""
    sections = []
    for name, entries in content.items():
        lines = (f"  {json.dumps(key)}: {json.dumps(entries[key])}" for key in sorted(entries))
        sections.append(f" {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(sections) + "\n}\n"


def _reader(path: Path) -> Any:
    import gguf  # late: who makes the golden files uses upstream's

    return gguf.GGUFReader(path)


def _keys(reader: Any) -> dict[str, list[Any]]:
    kept = ("dflash.", *(f"general.{name}" for name in GENERAL), MASK_TOKEN)
    return {
        name: [":".join(kind.name for kind in field.types), field.contents()]
        for name, field in reader.fields.items()
        if name.startswith(kept) and name != "general.file_type"
    }

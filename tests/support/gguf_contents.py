"""GGUF files taken apart, to be changed and written again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

TOKENS = "tokenizer.ggml.tokens"


class Contents:
    """A GGUF file taken apart, to be changed and written again."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        fields = [f for f in reader.fields.values() if not f.name.startswith("GGUF.")]
        self.keys = {f.name: f.contents() for f in fields}
        self.types = {f.name: f.types for f in fields}
        self.tensors = {t.name: (np.array(t.data), t.tensor_type) for t in reader.tensors}

    def set(self, key: str, value: Any, kind: gguf.GGUFValueType | None = None) -> None:
        self.keys[key] = value
        if kind is not None:
            self.types[key] = [kind]

    def set_tensor(self, name: str, data: Any) -> None:
        types = gguf.GGMLQuantizationType
        kind = {
            np.float32: types.F32,
            np.float16: types.F16,
            np.int64: types.I64,
            np.int32: types.I32,
        }
        self.tensors[name] = (data, kind[data.dtype.type])

    def write(self, path: Path, *, part: int = 0) -> Path:
        """In parts of so many tensors ("name-00001-of-00004.gguf", ...), or in one file."""
        architecture = self.keys["general.architecture"]
        writer = gguf.GGUFWriter(path, architecture, split_max_tensors=part)
        for key, value in self.keys.items():
            if key != "general.architecture":
                kind, *item = self.types[key]
                writer.add_key_value(key, value, kind, item[0] if item else None)
        for name, (data, kind) in self.tensors.items():
            writer.add_tensor(name, data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

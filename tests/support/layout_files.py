"""Writing tiny checkpoints and their verifiers: safetensors, torch's zip pickle, GGUF, by numpy.

Weights follow from a tensor's name alone, by a bit generator whose stream numpy guarantees: what
`golden/` says of them holds on any machine.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

N_EMBD, N_VOCAB, N_VERIFIER_LAYERS = 64, 96, 10
DTYPES = {"F32": "<f4", "F16": "<f2", "I64": "<i8", "BOOL": "|b1"}
STORAGES = {"F32": b"ctorch\nFloatStorage\n", "BF16": b"ctorch\nBFloat16Storage\n"}


@dataclass(frozen=True)
class Target:
    """A verifier.

    Attributes:
        mrope: sections of a multi-axis rotary embedding, as its config states them.
        weights: it needs an embedding and a head of its own, because the drafter copies them.
    """

    mrope: tuple[int, ...] = ()
    weights: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """What a trainer publishes.

    Attributes:
        shapes: published names and shapes of the weights, whose values are `values`.
        tables: tensors with values of their own.
        dtype: how the weights are stored.
        n_files: 1, or safetensors in so many parts with an index.
        mask_embedding: there is a mask_embedding.pt, with this token and vector.
    """

    config: Mapping[str, Any]
    shapes: Mapping[str, Shape]
    tables: Mapping[str, Array] = field(default_factory=dict)
    dtype: str = "BF16"
    n_files: int = 1
    mask_embedding: tuple[int, Array] | None = None
    target: Target = Target()

    def tensors(self) -> dict[str, tuple[str, Array]]:
        """Type and values of every stored tensor."""
        weights = {
            name: (self.dtype, rounded(values(name, shape), self.dtype))
            for name, shape in self.shapes.items()
        }
        kinds = {"int64": "I64", "bool": "BOOL", "float32": self.dtype}
        tables = {name: (kinds[str(table.dtype)], table) for name, table in self.tables.items()}
        return {**weights, **tables}


def values(name: str, shape: Shape) -> npt.NDArray[np.float32]:
    """Numbers of many magnitudes; norms are about 1."""
    raw = np.random.PCG64(zlib.crc32(name.encode())).random_raw(int(np.prod(shape)))
    mantissa = ((raw >> np.uint64(40)) & np.uint64(0x7FFFFF)).astype(np.float32) / 2**23 + 1
    exponent = 2 + (raw & np.uint64(0xF)).astype(np.int32) * 5 // 4  # some round in F16
    sign = np.where(raw >> np.uint64(63), -1, 1).astype(np.float32)
    numbers = sign * np.ldexp(mantissa, -exponent)
    is_norm = len(shape) == 1 and "norm" in name
    return np.reshape(1 + numbers / 2 if is_norm else numbers, shape).astype(np.float32)


def rounded(numbers: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[np.float32]:
    """As a stored type holds them; BF16 cuts."""
    if dtype == "BF16":
        return (numbers.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return numbers.astype(DTYPES[dtype]).astype(np.float32)


# ---- the drafter ---------------------------------------------------------------------------


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write config.json, the safetensors and what belongs to them into a folder."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(checkpoint.config, indent=1))
    write_safetensors(folder, checkpoint.tensors(), checkpoint.n_files)
    if checkpoint.mask_embedding is not None:
        data = torch_bytes(*checkpoint.mask_embedding, checkpoint.dtype)
        (folder / "mask_embedding.pt").write_bytes(data)
    return folder


def write_safetensors(
    folder: Path, tensors: Mapping[str, tuple[str, Array]], n_files: int = 1
) -> None:
    """model.safetensors, or parts of it with model.safetensors.index.json."""
    if n_files == 1:
        (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
        return
    names = list(tensors)
    weight_map = {}
    for i in range(n_files):
        file = f"model-{i + 1:05d}-of-{n_files:05d}.safetensors"
        part = {name: tensors[name] for name in names[i::n_files]}
        (folder / file).write_bytes(safetensors_bytes(part))
        weight_map.update(dict.fromkeys(part, file))
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def safetensors_bytes(tensors: Mapping[str, tuple[str, Array]]) -> bytes:
    """A safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, (dtype, array) in tensors.items():
        blob = _stored(array, dtype)
        span = [len(data), len(data) + len(blob)]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": span}
        data += blob
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _stored(array: Array, dtype: str) -> bytes:
    if dtype == "BF16":
        bits = array.astype("<f4").view("<u4")
        assert not (bits & 0xFFFF).any(), "no numbers that BF16 holds"
        return (bits >> 16).astype("<u2").tobytes()
    return array.astype(DTYPES[dtype]).tobytes()


def torch_bytes(token: int, vector: Array, dtype: str) -> bytes:
    """What `torch.save` makes of {"mask_token_id": token, "embedding": vector}, without torch."""

    def text(string: str) -> bytes:
        return b"X" + struct.pack("<I", len(string)) + string.encode()

    def integer(number: int) -> bytes:
        return b"J" + struct.pack("<i", number)

    storage = b"(" + text("storage") + STORAGES[dtype]
    storage += text("0") + text("cpu") + integer(len(vector)) + b"tQ"
    shape, strides = b"(" + integer(len(vector)) + b"t", b"(" + integer(1) + b"t"
    hooks = b"ccollections\nOrderedDict\n)R"
    arguments = b"(" + storage + integer(0) + shape + strides + b"\x89" + hooks + b"t"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"
    items = text("mask_token_id") + integer(token) + text("embedding") + tensor
    members = {
        "data.pkl": b"\x80\x02}(" + items + b"u.",
        "byteorder": b"little",
        "data/0": _stored(vector, dtype),
        "version": b"3\n",
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"mask_embedding/{name}", data)
    return file.getvalue()


# ---- the verifier --------------------------------------------------------------------------


def target_weights() -> dict[str, Array]:
    """The verifier's embedding and head, by their Hugging Face names."""
    names = ("model.embed_tokens.weight", "lm_head.weight")
    return {name: values(f"target {name}", (N_VOCAB, N_EMBD)) for name in names}


def write_verifier(path: Path, target: Target) -> Path:
    """A verifier's GGUF: sizes, a tokenizer, and its embedding (zeros where nobody looks)."""
    import gguf  # late: who makes the golden files uses upstream's

    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_name("tiny target")
    writer.add_block_count(N_VERIFIER_LAYERS)
    writer.add_embedding_length(N_EMBD)
    if target.mrope:
        writer.add_rope_dimension_sections([*target.mrope, 0, 0, 0, 0][:4])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"token {i}" for i in range(N_VOCAB)])
    writer.add_token_types([gguf.TokenType.NORMAL] * N_VOCAB)
    writer.add_token_merges(["t o"])
    weights = list(target_weights().values()) if target.weights else [_zeros(), _zeros()]
    writer.add_tensor("token_embd.weight", weights[0])
    writer.add_tensor("output.weight", weights[1])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _zeros() -> npt.NDArray[np.float32]:
    return np.zeros((N_VOCAB, N_EMBD), np.float32)

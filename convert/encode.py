"""Types of stored weights: which a tensor gets, how large it is, how it is encoded."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType, quants

from dflash_local.errors import ModelError

from .safetensors_file import Array, Float32Array


@dataclass(frozen=True)
class OutType:
    """What ``--outtype`` names: the type of the matrices and the file's own number for it."""

    matrices: GGMLQuantizationType
    file_type: LlamaFileType


OUT_TYPES = {
    "f32": OutType(GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": OutType(GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": OutType(GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": OutType(GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
DEFAULT_OUT_TYPE = "bf16"


def out_type(name: str) -> OutType:
    """Look up an output type.

    Raises:
        ModelError: there is no such type.
    """
    if name not in OUT_TYPES:
        raise ModelError(f"outtype: found {name!r}, expected one of {', '.join(OUT_TYPES)}")
    return OUT_TYPES[name]


def stored_type(name: str, shape: tuple[int, ...], wanted: OutType) -> GGMLQuantizationType:
    """The type a tensor gets: vectors, so norms, F32; rows that are no whole blocks F16."""
    if len(shape) < 2 or not name.endswith(".weight"):
        return GGMLQuantizationType.F32
    block_size, _ = GGML_QUANT_SIZES[wanted.matrices]
    return wanted.matrices if shape[-1] % block_size == 0 else GGMLQuantizationType.F16


def stored_bytes(shape: tuple[int, ...], kind: GGMLQuantizationType) -> int:
    """Size of an encoded tensor, without padding."""
    block_size, block_bytes = GGML_QUANT_SIZES[kind]
    return int(math.prod(shape) // block_size * block_bytes)


def encode(name: str, values: Float32Array, kind: GGMLQuantizationType) -> Array:
    """Encode a tensor.

    Raises:
        ModelError: it holds NaN or infinity, or values beyond what F16 can hold.
    """
    if not np.isfinite(values).all():
        raise ModelError(f"tensor {name} holds NaN or infinity: the checkpoint is broken")
    if kind == GGMLQuantizationType.F16 and np.abs(values).max() > np.finfo(np.float16).max:
        raise ModelError(f"tensor {name} has values beyond the range of F16: use outtype bf16")
    encoded: Array = quants.quantize(values, kind)
    return np.ascontiguousarray(encoded)

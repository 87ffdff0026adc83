"""Types of stored weights: which a tensor gets, how large it is, how it is encoded."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from dflash_local.errors import ModelError

from ..reading.safetensors_file import Array, Float32Array
from .quantize import quantize


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
    "q4_0": OutType(GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
    "q4_1": OutType(GGMLQuantizationType.Q4_1, LlamaFileType.MOSTLY_Q4_1),
    "q5_0": OutType(GGMLQuantizationType.Q5_0, LlamaFileType.MOSTLY_Q5_0),
    "q5_1": OutType(GGMLQuantizationType.Q5_1, LlamaFileType.MOSTLY_Q5_1),
    "q4_k": OutType(GGMLQuantizationType.Q4_K, LlamaFileType.MOSTLY_Q4_K_S),
    "q5_k": OutType(GGMLQuantizationType.Q5_K, LlamaFileType.MOSTLY_Q5_K_S),
    "q6_k": OutType(GGMLQuantizationType.Q6_K, LlamaFileType.MOSTLY_Q6_K),
}
DEFAULT_OUT_TYPE = "bf16"

# libllama's own choice where a row is no whole blocks (llama-quant.cpp, tensor_type_fallback).
FALLBACKS = {
    GGMLQuantizationType.Q4_K: GGMLQuantizationType.Q5_0,
    GGMLQuantizationType.Q5_K: GGMLQuantizationType.Q5_1,
    GGMLQuantizationType.Q6_K: GGMLQuantizationType.Q8_0,
}
# Tables of DFlash2's selector, whose rows are compared with each other.
CODEBOOKS = ("selector_predecessor.weight", "selector_successor.weight")
TOKEN_IDS = "d2t"
F16_MAX = 65504.0


def out_type(name: str) -> OutType:
    """Look up an output type.

    Raises:
        ModelError: there is no such type.
    """
    if name not in OUT_TYPES:
        raise ModelError(f"outtype: found {name!r}, expected one of {', '.join(OUT_TYPES)}")
    return OUT_TYPES[name]


def stored_type(name: str, shape: tuple[int, ...], wanted: OutType) -> GGMLQuantizationType:
    """The type a tensor gets.

    Norms and all that is no matrix are F32, token ids I64, codebooks at least F16. Rows that are no
    whole blocks fall back to what libllama's own quantiser takes.
    """
    if name == TOKEN_IDS:
        return GGMLQuantizationType.I64
    if len(shape) < 2 or not name.endswith(".weight") or name.endswith("_norm.weight"):
        return GGMLQuantizationType.F32
    kind = wanted.matrices
    if name in CODEBOOKS and GGML_QUANT_SIZES[kind][0] > 1:
        return GGMLQuantizationType.F16
    for fitting in (kind, FALLBACKS.get(kind, kind)):
        if shape[-1] % GGML_QUANT_SIZES[fitting][0] == 0:
            return fitting
    return GGMLQuantizationType.F16


def fallback_warnings(kinds: Mapping[str, GGMLQuantizationType], wanted: OutType) -> list[str]:
    """One sentence for each type that stands in for the wanted one, with the tensors' names."""
    expected = (wanted.matrices, GGMLQuantizationType.F32, GGMLQuantizationType.I64)
    fallen = {
        name: kind for name, kind in kinds.items() if kind not in expected and name not in CODEBOOKS
    }
    return [
        f"stored as {kind.name}, rows are no multiple of {wanted.matrices.name}'s block: "
        + ", ".join(dict.fromkeys(_any_layer(name) for name in fallen if fallen[name] == kind))
        for kind in dict.fromkeys(fallen.values())
    ]


def _any_layer(name: str) -> str:
    return re.sub(r"^blk\.\d+\.", "blk.*.", name)


def stored_bytes(shape: tuple[int, ...], kind: GGMLQuantizationType) -> int:
    """Size of an encoded tensor, without padding."""
    block_size, block_bytes = GGML_QUANT_SIZES[kind]
    return int(math.prod(shape) // block_size * block_bytes)


def encode(name: str, values: Float32Array, kind: GGMLQuantizationType) -> Array:
    """Encode a tensor, or whole rows of one.

    Raises:
        ModelError: it holds NaN or infinity, or values beyond what F16 can hold.
    """
    low, high = float(values.min()), float(values.max())  # NaN where there is one
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ModelError(f"tensor {name} holds NaN or infinity: the checkpoint is broken")
    if kind == GGMLQuantizationType.F32:
        return np.ascontiguousarray(values)
    # The scales of quantised blocks are F16 as well.
    if kind != GGMLQuantizationType.BF16 and max(-low, high) > F16_MAX:
        raise ModelError(f"tensor {name} has values beyond the range of F16: use outtype bf16")
    return quantize(values.reshape(-1, values.shape[-1]), kind)

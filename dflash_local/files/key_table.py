"""The ``dflash.*`` keys of a drafter's GGUF, each in one row: what is written, read and checked.

A new key is a row here and a value in ``convert.writing.keys``. Where other keys decide what it may
be, it also has a check in ``drafter_keys``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Flag, auto
from typing import Any

from gguf import GGUFValueType

ARCHITECTURE = "dflash"
MAX_BLOCK_SIZE = 256
_MAX_LAYERS = 512  # llama.cpp's own limit, an assertion there
_INT_MAX = 2**31 - 1
_MAX_WINDOW = 1 << 30  # libllama adds a batch to it, in 32 bits


class Reader(Flag):
    """Who reads a key when a drafter runs; NOBODY: it says something to people only."""

    NOBODY = 0
    LIBLLAMA = auto()
    LOOP = auto()
    BOTH = LIBLLAMA | LOOP


@dataclass(frozen=True)
class KeyRow:
    """One key.

    Attributes:
        name: without the prefix ``dflash.``.
        type: GGUF's; of an array ``item`` is that of its elements.
        reader: who reads it.
        required: a drafter's file has it.
        between: lowest and highest value of a whole number, lowest and next after the highest of a
            float. None: it has no range, or one that depends on other keys, which `drafter_keys`
            and `drafter_tensors` check.
        choices: the texts that it may be; empty: any.
        default: what libllama takes where the key is absent; None: nothing, or what follows from
            other keys.
        drafts: other values give other drafts.
    """

    name: str
    type: GGUFValueType
    reader: Reader = Reader.LIBLLAMA
    item: GGUFValueType | None = None
    required: bool = False
    between: tuple[int, int] | None = None
    choices: tuple[str, ...] = ()
    default: Any = None
    drafts: bool = True

    @property
    def key(self) -> str:
        """The name in the file."""
        return f"{ARCHITECTURE}.{self.name}"


def _table(*rows: KeyRow) -> Mapping[str, KeyRow]:
    return {row.name: row for row in rows}


_NOBODY, _LOOP, _BOTH = Reader.NOBODY, Reader.LOOP, Reader.BOTH
_U32, _F32, _BOOL, _TEXT, _ARRAY, _I32 = (
    GGUFValueType.UINT32,
    GGUFValueType.FLOAT32,
    GGUFValueType.BOOL,
    GGUFValueType.STRING,
    GGUFValueType.ARRAY,
    GGUFValueType.INT32,
)
_SCALINGS = ("none", "linear", "yarn", "longrope")

#: Those that drafters have, by name, in llama.cpp's order.
KEYS = _table(
    KeyRow("block_count", _U32, _BOTH, required=True, between=(1, _MAX_LAYERS)),
    KeyRow("context_length", _U32, required=True, between=(1, _INT_MAX), drafts=False),
    KeyRow("embedding_length", _U32, _BOTH, required=True, between=(1, 1 << 20)),
    KeyRow("feed_forward_length", _U32, _BOTH, required=True, between=(1, 1 << 22)),
    KeyRow("attention.head_count", _U32, _BOTH, required=True, between=(1, 1 << 16)),
    KeyRow("attention.head_count_kv", _U32, _BOTH),
    KeyRow("attention.key_length", _U32, _BOTH),
    KeyRow("attention.value_length", _U32, _BOTH),
    KeyRow("attention.layer_norm_rms_epsilon", _F32, required=True, between=(0, 1)),
    KeyRow("rope.freq_base", _F32, default=10000.0),
    KeyRow("rope.dimension_count", _U32),
    KeyRow("rope.scaling.type", _TEXT, choices=_SCALINGS, default="none"),
    KeyRow("rope.scaling.factor", _F32, default=1.0),
    KeyRow("rope.scaling.attn_factor", _F32, default=1.0),
    KeyRow("rope.scaling.original_context_length", _U32, between=(1, _INT_MAX)),
    KeyRow("rope.scaling.finetuned", _BOOL),
    # Other architectures have these; the dflash graph goes by their defaults, see layouts/yarn.py.
    KeyRow("rope.scaling.yarn_log_multiplier", _F32, _NOBODY),
    KeyRow("rope.scaling.yarn_ext_factor", _F32, _NOBODY),
    KeyRow("rope.scaling.yarn_attn_factor", _F32, _NOBODY),
    KeyRow("rope.scaling.yarn_beta_fast", _F32, _NOBODY),
    KeyRow("rope.scaling.yarn_beta_slow", _F32, _NOBODY),
    KeyRow("rope.dimension_sections", _ARRAY, item=_I32),
    KeyRow("attention.sliding_window", _U32, between=(0, _MAX_WINDOW)),
    KeyRow("attention.sliding_window_pattern", _ARRAY, item=_BOOL),
    KeyRow("attention.causal", _BOOL, _BOTH, default=False),
    KeyRow("attention.scale", _F32),
    KeyRow("attention.value_scale", _F32, default=1.0),
    KeyRow("logit_scale", _F32, default=1.0),
    KeyRow("final_logit_softcapping", _F32, default=0.0),
    KeyRow("embedding_scale", _F32, default=1.0),
    KeyRow("hidden_activation", _TEXT, default="silu"),
    # DFlash2 only, which has all four.
    KeyRow("conv_kernel_size", _U32, _BOTH),
    KeyRow("conv_group_size", _U32, _BOTH),
    KeyRow("selector_rank", _U32, _BOTH),
    KeyRow("selector_top_k", _U32, _BOTH),
    # DSpark only.
    KeyRow("sample_from_anchor", _BOOL, _BOTH, default=True),
    KeyRow("has_confidence_head", _BOOL, _NOBODY, drafts=False),  # its tensor says it
    KeyRow("block_size", _U32, _BOTH, required=True, between=(2, MAX_BLOCK_SIZE)),
    KeyRow("target_layers", _ARRAY, _BOTH, item=_I32, required=True),
)

#: Those that libllama reads of any file, and no drafter has: none, or what the others say already.
FOREIGN_KEYS = _table(
    KeyRow("expert_count", _U32, between=(0, 0)),
    KeyRow("expert_used_count", _U32, between=(0, 0)),
    KeyRow("expert_group_count", _U32, between=(0, 0)),
    KeyRow("nextn_predict_layers", _U32, between=(0, 0)),
    KeyRow("embedding_length_out", _U32),
    KeyRow("attention.key_length_swa", _U32),
    KeyRow("attention.value_length_swa", _U32),
    KeyRow("rope.dimension_count_swa", _U32),
    KeyRow("hyper_connection.count", _U32),
    KeyRow("vocab_size", _U32, drafts=False),
)

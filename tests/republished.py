"""The tiny trained drafters, published again in every layout that has their mathematics.

What a layout adds is set so that it changes nothing: an embedding and a head equal to the
verifier's, attention sinks that attract nobody, a scale that the weights make up for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from layout_configs import (
    DFLASH2,
    FULL,
    GEMMA4,
    MUSE,
    QWEN3,
    SLIDING,
    backbone,
    deepspec,
    gemma4_layer,
    markov,
    open_spec,
    open_spec_older,
    speculators,
    zlab,
)
from layout_files import Array, Checkpoint, values

MODELS = Path(__file__).parent / "models"
MASK, IDS, N_VOCAB, HEAD_DIM = 3, [0, 1, 2], 384, 16
SIZES = {
    "num_hidden_layers": 1,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
    "vocab_size": N_VOCAB,
}
FLAT = {**SIZES, "num_target_layers": 4}
TOP = {"mask_token_id": MASK, "target_layer_ids": IDS}
NESTED = {"aux_hidden_state_layer_ids": [1, 2, 3], "mask_token_id": MASK}

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


@dataclass(frozen=True)
class Published:
    """A checkpoint, and the file of the tiny models that holds the same drafter, if one does.

    Attributes:
        without: tensors that are zero in this edition of it.
    """

    checkpoint: Checkpoint
    original: str | None
    without: tuple[str, ...] = ()


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


def _f32(config: Mapping[str, Any], *parts: Weights, **options: Any) -> Checkpoint:
    tables = {name: array for part in parts for name, array in part.items()}
    return Checkpoint(config, {}, tables, dtype="F32", **options)


def _verifiers_own() -> Weights:
    """The verifier's embedding, and the same as a head of its own."""
    embedding = read_weights("verifier-f32")["embed_tokens.weight"]
    return {"embed_tokens.weight": embedding, "lm_head.weight": embedding}


def _reduced() -> Weights:
    """The drafter with a head for 112 tokens, published as speculators does: with offsets."""
    weights = read_weights("dflash-b8-d2t")
    ids = weights["d2t"]
    t2d = np.zeros(N_VOCAB, np.bool_)
    t2d[ids] = True
    tables = {"d2t": ids - np.arange(len(ids)), "t2d": t2d}
    embedding = _verifiers_own()["embed_tokens.weight"]
    return {**weights, **tables, "embed_tokens.weight": embedding}


def _interleaved(weights: Weights) -> Weights:
    """Rotary pairs as neighbours, where the tiny drafters have them half a head apart."""

    def neighbours(array: Array) -> Array:
        halves = array.reshape(-1, 2, HEAD_DIM // 2, *array.shape[1:])
        return halves.swapaxes(1, 2).reshape(array.shape)

    parts = ("q_proj", "k_proj", "q_norm", "k_norm")
    return {
        name: neighbours(array) if any(part in name for part in parts) else array
        for name, array in weights.items()
    }


def _dflash(**changes: Any) -> dict[str, Any]:
    return zlab(TOP, **{**FLAT, **changes})


def _nested(kind: str, architecture: str, n_draft: int, **changes: Any) -> dict[str, Any]:
    changes = {**NESTED, "architectures": [architecture], **changes}
    return speculators(kind, SIZES, n_draft, **changes)


def _open(config: dict[str, Any], start: int) -> dict[str, Any]:
    spec = {**config["speculative_config"], "draft_vocab_size": 112}
    spec["target_layer_ids"] = [i + start for i in IDS]
    nested = spec.get("dflash_config", spec)
    nested["mask_token_id"] = MASK
    return {**config, **SIZES, "speculative_config": spec}


def _mimo(weights: Weights) -> Checkpoint:
    """Outputs twice as large and scaled by a half; sinks of no weight; the verifier's mask."""
    output = "layers.0.self_attn.o_proj.weight"
    sinks = {"layers.0.self_attn.attention_sink_bias": np.full(4, -1e4, np.float32)}
    doubled = {output: 2 * weights[output]}
    mask = _verifiers_own()["embed_tokens.weight"][MASK]
    nested = {**TOP, "attention_value_scale": 0.5, "use_swa": True, "swa_window_size": 512}
    config = zlab({**nested, "causal": False}, **FLAT)
    return _f32(config, weights, doubled, sinks, mask_embedding=(MASK, mask))


def _renamed(weights: Weights, names: Mapping[str, str]) -> Weights:
    return {names.get(name, name): array for name, array in weights.items()}


def _gemma4() -> Checkpoint:
    """Random: no tiny drafter has Gemma's layers."""
    shapes = {**backbone(gemma4_layer()), **markov()}
    shapes = {name: shape for name, shape in shapes.items() if "layers.1" not in name}
    shapes["markov_head.markov_w1.weight"] = shapes["markov_head.markov_w2.weight"] = (N_VOCAB, 12)
    weights = {name: values(name, shape) for name, shape in shapes.items()}
    sizes = {name: value for name, value in SIZES.items() if name != "rope_theta"}
    config = {**GEMMA4, **sizes, **TOP, "layer_types": [FULL]}
    return _f32(config, weights, _verifiers_own())


def publications() -> dict[str, Published]:
    """By name, the layout's letter first."""
    plain, spark = read_weights("dflash-b8"), read_weights("dspark-b8")
    anchor, second = read_weights("dspark-b7-anchor"), read_weights("dflash2-b8")
    own, reduced = _verifiers_own(), _reduced()
    muse = {**MUSE, **{k: SIZES[k] for k in SIZES if k not in ("rope_theta", "vocab_size")}, **TOP}
    muse |= {"layer_types": [FULL], "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}
    encoder = {
        "fc.weight": "encoder.fc.weight",
        "hidden_norm.weight": "encoder.output_norm_enc.weight",
    }
    sliding = {"use_sliding_window": True, "sliding_window": 24, "layer_types": [SLIDING]}
    headless = {name: array for name, array in anchor.items() if name in plain}
    zero = ("markov_w1.weight", "markov_w2.weight")
    b8, b8_d2t, second_b8 = "dflash-b8", "dflash-b8-d2t", "dflash2-b8"
    return {
        "a": Published(_f32(_dflash(), plain), b8),
        "a-interleaved": Published(
            _f32(_dflash(rope_is_neox_style=False), _interleaved(plain)), b8
        ),
        "a-own-vocabulary": Published(_f32(_dflash(), plain, own), b8),
        "a-sliding-causal": Published(_f32(_dflash(**sliding, is_causal=True), plain), None),
        "aprime": Published(_f32(_dflash(architectures=["Qwen3DFlashDraftModel"]), plain), b8),
        "b": Published(
            _f32(zlab({**DFLASH2, **TOP}, **FLAT, architectures=["DFlash2DraftModel"]), second),
            second_b8,
        ),
        "bprime": Published(
            _f32(_nested("dflash2", "DFlash2DraftModel", N_VOCAB, **DFLASH2), second, own),
            second_b8,
        ),
        "c-full": Published(_f32(_nested("dflash", "DFlashDraftModel", N_VOCAB), plain, own), b8),
        "c-reduced": Published(_f32(_nested("dflash", "DFlashDraftModel", 112), reduced), b8_d2t),
        "c-anchor": Published(
            _f32(
                _nested(
                    "dflash",
                    "DFlashDraftModel",
                    N_VOCAB,
                    block_size=7,
                    sample_from_anchor=True,
                ),
                headless,
                own,
            ),
            "dspark-b7-anchor",
            zero,
        ),
        "c-speculator": Published(
            _f32(_nested("dflash", "DFlashSpeculator", 112), reduced), b8_d2t
        ),
        "d-start0": Published(_f32(_open(open_spec(0), 0), reduced), b8_d2t),
        "d-start1": Published(_f32(_open(open_spec(1), 1), reduced), b8_d2t),
        "dprime": Published(_f32(_open(open_spec_older(), 1), reduced), b8_d2t),
        "e": Published(
            _f32(_nested("dspark", "DSparkDraftModel", N_VOCAB), spark, own), "dspark-b8"
        ),
        "e-sliding": Published(
            _f32(
                _nested(
                    "dspark",
                    "DSparkDraftModel",
                    N_VOCAB,
                    transformer_layer_config={**QWEN3, **SIZES, **sliding},
                ),
                spark,
                own,
            ),
            None,
        ),
        "f-dspark": Published(_f32(deepspec(**FLAT, **TOP), anchor, own), "dspark-b7-anchor"),
        "f-dflash": Published(
            _f32(deepspec(rank=0, **FLAT, **TOP), headless, own), "dspark-b7-anchor", zero
        ),
        "f-gemma4": Published(_gemma4(), None),
        "g-lfm2": Published(
            _f32(zlab(TOP, **FLAT, architectures=["Lfm2DSparkDraftModel"], block_size=7), anchor),
            "dspark-b7-anchor",
        ),
        "g-ling": Published(
            _f32(
                deepspec("LingDSparkModel", **FLAT, **TOP, rope_is_neox_style=False),
                _interleaved(anchor),
            ),
            "dspark-b7-anchor",
        ),
        "h": Published(_f32(muse, _renamed(plain, encoder)), b8),
        "j": Published(_mimo(plain), b8),
    }

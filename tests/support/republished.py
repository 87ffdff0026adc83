"""The tiny trained drafters, published again in every layout that has their mathematics.

What a layout adds is set so that it changes nothing: an embedding and a head equal to the
verifier's, attention sinks that attract nobody, a scale that the weights make up for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

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
from layout_files import Checkpoint, values
from tiny_weights import (
    MASK,
    N_VOCAB,
    Weights,
    interleaved,
    mimo,
    read_weights,
    reduced,
    renamed,
    verifiers_own,
)

IDS = [0, 1, 2]
ROPE = {"rope_theta": 10000.0}
SIZES = {"num_hidden_layers": 1, "rms_norm_eps": 1e-5, "max_position_embeddings": 512}
FLAT = {**SIZES, **ROPE, "vocab_size": N_VOCAB, "num_target_layers": 4}
TOP = {"mask_token_id": MASK, "target_layer_ids": IDS}
NESTED = {"aux_hidden_state_layer_ids": [1, 2, 3], "mask_token_id": MASK}
WINDOW = {"use_sliding_window": True, "sliding_window": 24, "layer_types": [SLIDING]}
ENCODER = {
    "fc.weight": "encoder.fc.weight",
    "hidden_norm.weight": "encoder.output_norm_enc.weight",
}
B8, B8_D2T, SECOND = "dflash-b8", "dflash-b8-d2t", "dflash2-b8"
SPARK, ANCHOR = "dspark-b8", "dspark-b7-anchor"
MARKOV = ("markov_w1.weight", "markov_w2.weight")

Config = dict[str, Any]


@dataclass(frozen=True)
class Published:
    """A checkpoint, and the file of the tiny models that holds the same drafter.

    Attributes:
        original: None where no such file holds it.
        without: tensors of the original that have to be zero for it to be the same.
    """

    checkpoint: Checkpoint
    original: str | None = None
    without: tuple[str, ...] = ()


def publications() -> dict[str, Published]:
    """By name, the layout's letter first."""
    return {**_zlab(), **_speculators(), **_open_spec(), **_dspark(), **_others()}


def _f32(config: Config, *parts: Mapping[str, Any], **options: Any) -> Checkpoint:
    tables = {name: array for part in parts for name, array in part.items()}
    return Checkpoint(config, {}, tables, dtype="F32", **options)


def _zlab() -> dict[str, Published]:
    plain, second = read_weights(B8), read_weights(SECOND)

    def config(**changes: Any) -> Config:
        return zlab(TOP, **{**FLAT, **changes})

    dflash2 = zlab({**DFLASH2, **TOP}, **FLAT, architectures=["DFlash2DraftModel"])
    neighbours = config(rope_is_neox_style=False)
    nemo = config(architectures=["Qwen3DFlashDraftModel"])
    return {
        "a": Published(_f32(config(), plain), B8),
        "a-interleaved": Published(_f32(neighbours, interleaved(plain)), B8),
        "a-own-vocabulary": Published(_f32(config(), plain, verifiers_own()), B8),
        "a-sliding-causal": Published(_f32(config(**WINDOW, is_causal=True), plain)),
        "aprime": Published(_f32(nemo, plain), B8),
        "b": Published(_f32(dflash2, second), SECOND),
    }


def _speculators() -> dict[str, Published]:
    own, part = verifiers_own(), reduced()
    layer = {**SIZES, **ROPE, "vocab_size": N_VOCAB}

    def config(kind: str, architecture: str, n_draft: int = N_VOCAB, **changes: Any) -> Config:
        changes = {**NESTED, "architectures": [architecture], **changes}
        return speculators(kind, layer, n_draft, **changes)

    second = config("dflash2", "DFlash2DraftModel", **DFLASH2)
    plain, spark = config("dflash", "DFlashDraftModel"), config("dspark", "DSparkDraftModel")
    anchor = {**plain, "block_size": 7, "sample_from_anchor": True}
    sliding = {**spark, "transformer_layer_config": {**QWEN3, **layer, **WINDOW}}
    few = [config("dflash", name, 112) for name in ("DFlashDraftModel", "DFlashSpeculator")]
    return {
        "bprime": Published(_f32(second, read_weights(SECOND), own), SECOND),
        "c-full": Published(_f32(plain, read_weights(B8), own), B8),
        "c-anchor": Published(_f32(anchor, _headless(), own), ANCHOR, MARKOV),
        "c-reduced": Published(_f32(few[0], part), B8_D2T),
        "c-speculator": Published(_f32(few[1], part), B8_D2T),
        "e": Published(_f32(spark, read_weights(SPARK), own), SPARK),
        "e-sliding": Published(_f32(sliding, read_weights(SPARK), own)),
    }


def _open_spec() -> dict[str, Published]:
    part = reduced()

    def config(published: Config, start: int) -> Config:
        spec = {**published["speculative_config"], "draft_vocab_size": 112}
        spec["target_layer_ids"] = [i + start for i in IDS]
        spec.get("dflash_config", spec)["mask_token_id"] = MASK
        sizes = {**SIZES, **ROPE, "vocab_size": N_VOCAB}
        return {**published, **sizes, "speculative_config": spec}

    return {
        "d-start0": Published(_f32(config(open_spec(0), 0), part), B8_D2T),
        "d-start1": Published(_f32(config(open_spec(1), 1), part), B8_D2T),
        "dprime": Published(_f32(config(open_spec_older(), 1), part), B8_D2T),
    }


def _dspark() -> dict[str, Published]:
    anchor, own = read_weights(ANCHOR), verifiers_own()
    lfm2 = zlab(TOP, **FLAT, architectures=["Lfm2DSparkDraftModel"], block_size=7)
    ling = deepspec("LingDSparkModel", **FLAT, **TOP, rope_is_neox_style=False)
    dflash = deepspec(rank=0, **FLAT, **TOP)
    return {
        "f-dspark": Published(_f32(deepspec(**FLAT, **TOP), anchor, own), ANCHOR),
        "f-dflash": Published(_f32(dflash, _headless(), own), ANCHOR, MARKOV),
        "f-gemma4": Published(_gemma4()),
        "g-lfm2": Published(_f32(lfm2, anchor), ANCHOR),
        "g-ling": Published(_f32(ling, interleaved(anchor)), ANCHOR),
    }


def _others() -> dict[str, Published]:
    plain = read_weights(B8)
    rope = {"rope_parameters": {**ROPE, "rope_type": "default"}}
    muse = {**MUSE, **SIZES, **TOP, **rope, "layer_types": [FULL]}
    window = {"use_swa": True, "swa_window_size": 512, "causal": False}
    scaled = zlab({**TOP, **window, "attention_value_scale": 0.5}, **FLAT)
    mask = (MASK, verifiers_own()["embed_tokens.weight"][MASK])
    return {
        "h": Published(_f32(muse, renamed(plain, ENCODER)), B8),
        "j": Published(_f32(scaled, mimo(plain), mask_embedding=mask), B8),
    }


def _headless() -> Weights:
    """A drafter that reads from the anchor on, without a Markov head."""
    return _without(read_weights(ANCHOR), ("markov", "confidence"))


def _without(weights: Weights, parts: Iterable[str]) -> Weights:
    return {n: array for n, array in weights.items() if not any(part in n for part in parts)}


def _gemma4() -> Checkpoint:
    """Random: no tiny drafter has Gemma's layers."""
    shapes = {**backbone(gemma4_layer()), **markov()}
    shapes["markov_head.markov_w1.weight"] = shapes["markov_head.markov_w2.weight"] = (N_VOCAB, 12)
    weights = {name: values(name, shape) for name, shape in shapes.items()}
    config = {**GEMMA4, **SIZES, **TOP, "vocab_size": N_VOCAB, "layer_types": [FULL]}
    return _f32(config, _without(weights, ("layers.1",)), verifiers_own())

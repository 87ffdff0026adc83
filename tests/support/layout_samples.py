"""A tiny checkpoint of every layout and spelling that trainers publish.

`SAMPLES` holds them by name, the layout's letter first. Upstream's converter refuses some: `GOLDEN`
names the sample that it takes and that must give the same file, one of another layout or of
`TWINS`, where the same drafter is written as upstream wants it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from layout_configs import (
    DFLASH2,
    FULL,
    GEMMA4,
    IDS,
    LLAMA3,
    MASK,
    MIMO,
    MUSE,
    N_DRAFT_VOCAB,
    N_LAYER,
    ROPE_PARAMETERS,
    SCALES,
    SLIDING,
    SLIDING_LAYERS,
    YARN,
    backbone,
    conv_shapes,
    deepspec,
    gemma4_layer,
    markov,
    mimo_layer,
    muse_shapes,
    open_spec,
    open_spec_older,
    reduction,
    speculators,
    vocabulary,
    zlab,
)
from layout_files import N_EMBD, N_VOCAB, Checkpoint, Target, rounded, values

MASK_VECTOR = rounded(values("mask_embedding", (N_EMBD,)), "BF16")


def _a(dflash: dict[str, Any] | None = None, **changes: Any) -> Checkpoint:
    return Checkpoint(zlab(dflash, **changes), backbone())


def _own(**changes: Any) -> Checkpoint:
    return Checkpoint(zlab(**changes), {**backbone(), **vocabulary()})


def _reduced(config: dict[str, Any]) -> Checkpoint:
    return Checkpoint(config, {**backbone(), **vocabulary(N_DRAFT_VOCAB)}, reduction())


def _full(config: dict[str, Any]) -> Checkpoint:
    return Checkpoint(config, {**backbone(), **vocabulary()})


def _e(n_draft: int = N_DRAFT_VOCAB, layer: Any = None, **changes: Any) -> Checkpoint:
    changes = {"architectures": ["DSparkDraftModel"], **changes}
    config = speculators("dspark", layer, n_draft, **changes)
    shapes = {**backbone(), **vocabulary(n_draft), **markov(n_draft)}
    return Checkpoint(config, shapes, reduction() if n_draft < N_VOCAB else {})


def _b(**changes: Any) -> Checkpoint:
    return Checkpoint(zlab(DFLASH2, architectures=["DFlash2DraftModel"], **changes), conv_shapes())


def _b_own(checkpoint: Checkpoint) -> Checkpoint:
    return Checkpoint(checkpoint.config, {**checkpoint.shapes, **vocabulary()})


def _deepspec(config: dict[str, Any], *parts: dict[str, Any]) -> Checkpoint:
    return Checkpoint(config, {name: shape for part in parts for name, shape in part.items()})


LAYOUT_A = {
    "a-zlab": _a(),
    "a-nested-block-size": Checkpoint(
        zlab({"block_size": 10}, block_size=None, rope_theta=None, rope_parameters=ROPE_PARAMETERS),
        backbone(),
    ),
    "a-llama3": _a(rope_scaling=LLAMA3),
    "a-linear": _a(rope_scaling={"type": "linear", "factor": 2.0}),
    "a-yarn": _a(rope_scaling=YARN),
    "a-yarn-ramp": _a(rope_scaling={**YARN, "beta_fast": 24.0}),
    "a-partial-rope": _a(partial_rotary_factor=0.5),
    "a-sliding": _a(**{**SLIDING_LAYERS, "layer_types": [SLIDING, FULL]}, is_causal=False),
    "a-sliding-causal": _a(**SLIDING_LAYERS, is_causal=True),
    "a-use-swa": _a({"use_swa": True, "swa_window_size": 24, "causal": False}),
    "a-interleaved-rope": _a(rope_is_neox_style=False),
    "a-own-vocabulary": _own(),
    "a-own-vocabulary-sliding": _own(**SLIDING_LAYERS, is_causal=True),
    "a-borrowed-embedding": _own(has_embed_tokens=False),
    "a-scales": _a(**SCALES),
    "a-mrope": Checkpoint(zlab(), backbone(), target=Target(mrope=(4, 2, 2))),
    "a-f32": Checkpoint(zlab(), backbone(), dtype="F32"),
    "a-f16": Checkpoint(zlab(), backbone(), dtype="F16"),
    "a-sharded": Checkpoint(zlab(), backbone(), n_files=3),
    "a-prefix": Checkpoint(zlab(), {f"model.{k}": shape for k, shape in backbone().items()}),
    "a-sliding-unsaid": _a(**SLIDING_LAYERS),
    "a-window-of-no-layer": _a(**{**SLIDING_LAYERS, "layer_types": [FULL] * N_LAYER}),
    "a-no-softcap": _a(final_logit_softcapping=0.0),
    "a-default-block-size": _a(block_size=None),
    "a-sparse": _a(rope_theta=None, head_dim=None, hidden_act=None, attention_bias=None),
    "a-mrope-in-both": Checkpoint(
        zlab(rope_scaling={"rope_type": "default", "mrope_section": [4, 2, 2]}),
        backbone(),
        target=Target(mrope=(4, 2, 2)),
    ),
    "a-top-mask": Checkpoint(
        zlab(mask_token_id=MASK, target_layer_ids=IDS, dflash_config=None), backbone()
    ),
    "a-gelu": _a(hidden_act="gelu_pytorch_tanh"),
    "aprime-nemo": _a(architectures=["Qwen3DFlashDraftModel"]),
}

LAYOUT_B = {
    "b-dflash2": _b(),
    "b-scales": _b(**SCALES),
    "b-own-vocabulary": _b_own(_b()),
    "bprime-speculators": _b_own(
        Checkpoint(
            speculators("dflash2", n_draft=N_VOCAB, architectures=["DFlash2DraftModel"], **DFLASH2),
            conv_shapes(),
        )
    ),
}

SPECULATORS = {
    "c-reduced": _reduced(speculators()),
    "c-full": _full(speculators(n_draft=N_VOCAB)),
    "c-full-null": _full({**speculators(), "draft_vocab_size": None}),
    "c-speculator": _reduced(speculators(architectures=["DFlashSpeculator"])),
    "c-sliding": _full(speculators(layer=SLIDING_LAYERS, n_draft=N_VOCAB)),
    "c-sliding-bidirectional": _full(
        speculators(layer=SLIDING_LAYERS, n_draft=N_VOCAB, sliding_window_non_causal=True)
    ),
    "c-anchor": _reduced(speculators(block_size=7, sample_from_anchor=True)),
    "d-start1": _reduced(open_spec(1)),
    "d-start0": _reduced(open_spec(0)),
    "d-full": _full(open_spec(1, n_draft=N_VOCAB)),
    "d-anchor": _reduced(open_spec(1, sample_from_anchor=True)),
    "d-sliding": _full(open_spec(1, n_draft=N_VOCAB, **SLIDING_LAYERS)),
    "dprime-older": _reduced(open_spec_older()),
    "e-dspark": _e(),
    "e-speculator": _e(architectures=["DSparkSpeculator"]),
    "e-full": _e(N_VOCAB),
    "e-sliding": _e(layer=SLIDING_LAYERS),
    "e-anchor": _e(sample_from_anchor=True),
    "e-anchor-unsaid": _e(sample_from_anchor=None),
}

DEEPSPEC = {
    "f-dspark": _deepspec(deepspec(), backbone(), vocabulary(), markov()),
    "f-dspark-tied": _deepspec(
        deepspec(tie_word_embeddings=True),
        backbone(),
        {"embed_tokens.weight": vocabulary()["embed_tokens.weight"]},
        markov(confidence=""),
    ),
    "f-embeddings": _deepspec(deepspec(target_layer_ids=[-1, 4, 8]), backbone(), markov()),
    "f-dflash": _deepspec(deepspec(rank=0), backbone(), vocabulary()),
    "f-gemma4": _deepspec(
        GEMMA4, backbone(gemma4_layer()), vocabulary(), markov(confidence="confidence_proj")
    ),
    "f-gemma4-default-rope": _deepspec(
        {**GEMMA4, "rope_parameters": {FULL: {**ROPE_PARAMETERS, "partial_rotary_factor": 0.5}}},
        backbone(gemma4_layer()),
        vocabulary(),
        markov(),
    ),
    "g-lfm2": _deepspec(
        zlab(architectures=["Lfm2DSparkDraftModel"], model_type="lfm2_dspark", markov_rank=12),
        backbone(),
        markov(),
    ),
    "g-ling": _deepspec(
        deepspec("LingDSparkModel", model_type="ling_dspark", rope_is_neox_style=False),
        backbone(),
        markov(confidence=""),
    ),
    "h-muse": Checkpoint(MUSE, muse_shapes()),
    "j-mimo": Checkpoint(
        zlab(MIMO),
        backbone(mimo_layer()),
        mask_embedding=(MASK, MASK_VECTOR),
        target=Target(weights=True),
    ),
    "j-mimo-own-embedding": Checkpoint(
        zlab(MIMO),
        {**backbone(mimo_layer()), **vocabulary()},
        mask_embedding=(MASK, MASK_VECTOR),
    ),
}

SAMPLES = {**LAYOUT_A, **LAYOUT_B, **SPECULATORS, **DEEPSPEC}


def _zero_markov(n_draft: int = N_VOCAB) -> dict[str, Any]:
    return {
        "markov_head.markov_w1.weight": np.zeros((N_VOCAB, 1), np.float32),
        "markov_head.markov_w2.weight": np.zeros((n_draft, 1), np.float32),
    }


# Upstream's DSpark reader takes a reduced vocabulary, its DFlash reader does not.
TWINS = {
    "twin-reduced": _reduced(speculators(architectures=["DSparkSpeculator"])),
    "twin-reduced-anchor": Checkpoint(
        speculators(architectures=["DSparkSpeculator"], block_size=7, sample_from_anchor=True),
        {**backbone(), **vocabulary(N_DRAFT_VOCAB)},
        {**reduction(), **_zero_markov(N_DRAFT_VOCAB)},
    ),
    "twin-sliding-bidirectional": _own(**SLIDING_LAYERS),
    "twin-deepspec": Checkpoint(deepspec(rank=1), {**backbone(), **vocabulary()}, _zero_markov()),
}

GOLDEN = {
    **{name: name for name in SAMPLES},
    "aprime-nemo": "a-zlab",
    "a-sharded": "a-zlab",
    "bprime-speculators": "b-own-vocabulary",
    "c-reduced": "twin-reduced",
    "c-full": "a-own-vocabulary",
    "c-full-null": "a-own-vocabulary",
    "c-speculator": "twin-reduced",
    "c-sliding": "a-own-vocabulary-sliding",
    "c-anchor": "twin-reduced-anchor",
    "c-sliding-bidirectional": "twin-sliding-bidirectional",
    "d-anchor": "twin-reduced-anchor",
    "d-sliding": "a-own-vocabulary-sliding",
    "d-start1": "twin-reduced",
    "d-start0": "twin-reduced",
    "d-full": "a-own-vocabulary",
    "dprime-older": "twin-reduced",
    "e-speculator": "e-dspark",
    "f-dflash": "twin-deepspec",
}

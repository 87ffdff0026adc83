"""Layouts E, F and G: Markov and confidence heads, DeepSpec's DFlash, Gemma 4's layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from layout_configs import N_DRAFT_VOCAB, RANK
from layout_files import N_EMBD, N_VOCAB, Checkpoint
from layout_results import converted, sample, weights, with_tensors

from dflash_local.errors import ModelError


def _problem(tmp_path: Path, checkpoint: Checkpoint, *messages: str) -> None:
    with pytest.raises(ModelError) as caught:
        converted(tmp_path, checkpoint)
    for message in messages:
        assert message in str(caught.value)


def test_the_heads_of_dspark_arrive(tmp_path: Path) -> None:
    checkpoint = sample("f-dspark")
    result = converted(tmp_path, checkpoint)
    assert result.keys["sample_from_anchor"] is True
    assert result.keys["has_confidence_head"] is True
    assert result.keys["block_size"] == 7
    assert result.keys["target_layers"] == [2, 5, 9]
    for name in ("markov_w1", "markov_w2"):
        expected = weights(checkpoint, f"markov_head.{name}.weight")
        np.testing.assert_array_equal(result.tensors[f"{name}.weight"], expected)
    confidence = weights(checkpoint, "confidence_head.proj.weight")
    np.testing.assert_array_equal(result.tensors["conf_proj.weight"], confidence)
    assert result.tensors["conf_proj.bias"].shape == (1,)


def test_exports_of_speculators_predict_from_the_first_mask_unless_they_say_so(
    tmp_path: Path,
) -> None:
    nested = sample("e-dspark", sample_from_anchor=None)
    assert converted(tmp_path, nested).keys["sample_from_anchor"] is False
    assert converted(tmp_path, sample("e-anchor")).keys["sample_from_anchor"] is True
    flat = sample("f-dspark", target_layer_ids=None, aux_hidden_state_layer_ids=[2, 5, 9])
    result = converted(tmp_path, flat)
    assert result.keys["sample_from_anchor"] is False
    assert result.keys["target_layers"] == [2, 5, 9]


def test_a_markov_head_of_a_reduced_vocabulary_has_a_row_for_each_draft(tmp_path: Path) -> None:
    tensors = converted(tmp_path, sample("e-dspark")).tensors
    assert tensors["markov_w1.weight"].shape == (N_VOCAB, RANK)
    assert tensors["markov_w2.weight"].shape == (N_DRAFT_VOCAB, RANK)


def test_deepspecs_dflash_becomes_dspark_with_a_head_of_zeros(tmp_path: Path) -> None:
    checkpoint = sample("f-dflash")
    result = converted(tmp_path, checkpoint)
    assert result.keys["sample_from_anchor"] is True
    assert result.keys["has_confidence_head"] is False
    for name in ("markov_w1.weight", "markov_w2.weight"):
        assert result.tensors[name].shape == (N_VOCAB, 1)
        assert not result.tensors[name].any()
    assert "conf_proj.weight" not in result.tensors
    head = weights(checkpoint, "lm_head.weight")
    np.testing.assert_array_equal(result.tensors["output.weight"], head)


def test_a_drafter_without_markov_head_that_begins_at_the_mask_is_plain_dflash(
    tmp_path: Path,
) -> None:
    result = converted(tmp_path, sample("f-dflash", sample_from_anchor=False))
    assert not [name for name in result.tensors if "markov" in name]
    assert "sample_from_anchor" not in result.keys


def test_a_confidence_head_that_ignores_the_last_token_gets_zeros_for_it(tmp_path: Path) -> None:
    narrow = np.arange(N_EMBD, dtype=np.float32)[None] / N_EMBD
    checkpoint = with_tensors(sample("f-dspark"), confidence_head__proj__weight=narrow)
    stored = converted(tmp_path, checkpoint).tensors["conf_proj.weight"]
    assert stored.shape == (1, N_EMBD + RANK)
    np.testing.assert_array_equal(stored[:, :N_EMBD], narrow)
    assert not stored[:, N_EMBD:].any()


def test_a_head_that_repeats_the_embedding_is_left_out_and_no_other(tmp_path: Path) -> None:
    checkpoint = sample("f-dspark", "lm_head.weight")
    embedding = weights(checkpoint, "embed_tokens.weight")
    tied = with_tensors(checkpoint, lm_head__weight=embedding)
    assert "output.weight" not in converted(tmp_path, tied).tensors
    changed = embedding.copy()
    changed[50, 3] *= 2
    untied = with_tensors(checkpoint, lm_head__weight=changed)
    # Whatever the flag says.
    flagged = Checkpoint(
        {**untied.config, "tie_word_embeddings": True}, untied.shapes, untied.tables
    )
    np.testing.assert_array_equal(converted(tmp_path, flagged).tensors["output.weight"], changed)


def test_what_libllama_cannot_compute_of_dspark_is_refused(tmp_path: Path) -> None:
    gated = sample("f-dspark", markov_head_type="gated")
    _problem(tmp_path, gated, "`markov_head_type`: found 'gated', expected 'vanilla'")
    unclear = sample("f-dspark", architectures=["DFlashDraftModel"])
    _problem(tmp_path, unclear, "`sample_from_anchor`: found nothing")
    clear = sample("f-dspark", architectures=["DFlashDraftModel"], sample_from_anchor=True)
    assert converted(tmp_path, clear).keys["sample_from_anchor"] is True
    _problem(tmp_path, sample("f-dspark", markov_rank=8), "found shape (96, 12), expected (96, 8)")


def test_the_embedding_may_be_a_target_layer(tmp_path: Path) -> None:
    keys = converted(tmp_path, sample("f-dspark", target_layer_ids=[-1, 4, 8])).keys
    assert keys["target_layers"] == [0, 5, 9]


def test_lfm2_calls_the_epsilon_by_its_own_name(tmp_path: Path) -> None:
    checkpoint = sample("g-lfm2", rms_norm_eps=None, norm_eps=1e-5)
    result = converted(tmp_path, checkpoint)
    assert result.keys["attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)
    assert result.keys["sample_from_anchor"] is True


# ---- Gemma 4 ----------------------------------------------------------------------------------


def test_gemma4s_constants_are_written(tmp_path: Path) -> None:
    keys = converted(tmp_path, sample("f-gemma4")).keys
    assert keys["attention.scale"] == 1.0
    assert keys["embedding_scale"] == 8.0  # the root of 64
    assert keys["hidden_activation"] == "gelu_pytorch_tanh"
    assert keys["attention.key_length"] == keys["rope.dimension_count"] == 16
    assert keys["attention.head_count_kv"] == 2
    assert keys["rope.freq_base"] == 1000000.0
    assert keys["sample_from_anchor"] is True
    assert "attention.sliding_window" not in keys


def test_gemma4s_layers_have_norms_on_both_sides_and_no_values(tmp_path: Path) -> None:
    checkpoint = sample("f-gemma4")
    tensors = converted(tmp_path, checkpoint).tensors
    names = {
        "post_attention_layernorm.weight": "post_attention_norm.weight",
        "pre_feedforward_layernorm.weight": "ffn_norm.weight",
        "post_feedforward_layernorm.weight": "post_ffw_norm.weight",
        "layer_scalar": "layer_output_scale.weight",
    }
    for published, written in names.items():
        expected = weights(checkpoint, f"layers.1.{published}")
        np.testing.assert_array_equal(tensors[f"blk.1.{written}"], expected)
    assert "blk.0.attn_v.weight" not in tensors
    assert tensors["conf_proj.weight"].shape == (1, N_EMBD + RANK)


def test_gemma4s_proportional_rope_leaves_the_other_pairs_in_place(tmp_path: Path) -> None:
    still = float(np.float32(1e30))
    factors = converted(tmp_path, sample("f-gemma4")).tensors["rope_freqs.weight"]
    assert factors.tolist() == [1.0] * 2 + [still] * 6  # a quarter of 16 dimensions
    unnamed = converted(tmp_path, sample("f-gemma4", rope_parameters=None))
    assert unnamed.tensors["rope_freqs.weight"].tolist() == factors.tolist()
    assert unnamed.keys["rope.freq_base"] == 1000000.0
    assert "rope_freqs.weight" not in converted(tmp_path, sample("f-gemma4-default-rope")).tensors


def test_what_the_graph_lacks_of_gemma4_is_listed(tmp_path: Path) -> None:
    _problem(
        tmp_path,
        sample(
            "f-gemma4",
            attention_k_eq_v=False,
            layer_types=["sliding_attention", "full_attention"],
            hidden_activation="silu",
            enable_moe_block=True,
            hidden_size_per_layer_input=8,
            final_logit_softcapping=30.0,
            attention_bias=True,
            rope_parameters={"full_attention": {"rope_type": "yarn", "factor": 2.0}},
        ),
        "8 problems",
        "`attention_k_eq_v`: expected true",
        "`layer_types`: expected full_attention only",
        "`hidden_activation`: expected gelu_pytorch_tanh",
        "`enable_moe_block`",
        "`hidden_size_per_layer_input`",
        "`final_logit_softcapping`",
        "`attention_bias`",
        "`rope_type`: found 'yarn'",
    )

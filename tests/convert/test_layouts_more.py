"""Layouts B, H and J: DFlash2, Muse-Glimmer's assistant, MiMo with its mask embedding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from dflash_local.convert import convert
from layout_configs import DFLASH2, HEAD_DIM, MASK, RANK
from layout_files import (
    N_EMBD,
    N_VERIFIER_LAYERS,
    N_VOCAB,
    Checkpoint,
    target_weights,
    write_checkpoint,
)
from layout_results import converted, sample, weights, with_tensors, within

from dflash_local.errors import ModelError


def _problem(tmp_path: Path, checkpoint: Checkpoint, *messages: str) -> None:
    with pytest.raises(ModelError) as caught:
        converted(tmp_path, checkpoint)
    for message in messages:
        assert message in str(caught.value)


# ---- DFlash2 ----------------------------------------------------------------------------------


def _dflash2(**fields: Any) -> Checkpoint:
    return within("b-dflash2", "dflash_config", **fields)


def test_dflash2s_convolutions_and_selector_arrive(tmp_path: Path) -> None:
    checkpoint = sample("b-dflash2")
    result = converted(tmp_path, checkpoint, outtype="q8_0")
    assert {name: result.keys[name] for name in DFLASH2} == DFLASH2
    for layer in (0, 1):
        for published, written in (("attention_conv", "attn"), ("mlp_conv", "ffn")):
            kernel = weights(checkpoint, f"layers.{layer}.{published}.base_kernel")
            name = f"blk.{layer}.{written}_conv_base"  # without a suffix
            np.testing.assert_array_equal(result.tensors[name], kernel)
            assert result.types[name] == "F32"
            assert result.types[f"blk.{layer}.{written}_conv_proj.weight"] == "Q8_0"
    for name in ("selector_predecessor.weight", "selector_successor.weight"):
        assert result.types[name] == "F16"
        assert result.tensors[name].shape == (N_VOCAB, RANK)


def test_codebooks_are_found_with_and_without_a_suffix(tmp_path: Path) -> None:
    checkpoint = sample("b-dflash2")
    suffixed = {
        f"{name}.weight" if name.endswith("codebook") else name: shape
        for name, shape in checkpoint.shapes.items()
    }
    names = {name for name in suffixed if "codebook" in name}
    assert names == {
        "candidate_selector.predecessor_codebook.weight",
        "candidate_selector.successor_codebook.weight",
    }
    renamed = replace(checkpoint, shapes=suffixed)
    assert converted(tmp_path, renamed).types.keys() == converted(tmp_path, checkpoint).types.keys()


def test_speculators_nested_dflash2_has_its_own_default_mask(tmp_path: Path) -> None:
    # Bidirectional in sliding layers, where its DFlash is causal.
    base = sample("bprime-speculators", sliding_window_non_causal=None)
    layers = {
        **base.config["transformer_layer_config"],
        "use_sliding_window": True,
        "sliding_window": 32,
        "layer_types": ["sliding_attention"] * 2,
    }
    silent = replace(base, config={**base.config, "transformer_layer_config": layers})
    assert "attention.causal" not in converted(tmp_path, silent).keys
    told = replace(silent, config={**silent.config, "sliding_window_non_causal": False})
    assert converted(tmp_path, told).keys["attention.causal"] is True


def test_what_libllama_cannot_compute_of_dflash2_is_refused(tmp_path: Path) -> None:
    # 64 hidden channels hold the lattice of 7 candidates (56), not that of 8 (72).
    assert converted(tmp_path, _dflash2(selector_top_k=7)).keys["selector_top_k"] == 7
    _problem(tmp_path, _dflash2(selector_top_k=8), "`selector_top_k`: found 8, which needs", "72")
    _problem(tmp_path, _dflash2(conv_group_size=24), "`conv_group_size`: found 24, expected a div")
    _problem(tmp_path, _dflash2(selector_rank=None), "`selector_rank`: found nothing")
    _problem(tmp_path, _dflash2(sample_from_anchor=True), "`sample_from_anchor`: found true")
    reduced = sample("bprime-speculators", draft_vocab_size=40)
    _problem(tmp_path, reduced, "DFlash2 with a reduced vocabulary")


# ---- Muse-Glimmer -----------------------------------------------------------------------------


def test_muse_glimmers_own_names_are_known(tmp_path: Path) -> None:
    checkpoint = sample("h-muse", layer_types=["sliding_attention", "full_attention"])
    result = converted(tmp_path, checkpoint)
    fused = weights(checkpoint, "encoder.fc.weight")
    np.testing.assert_array_equal(result.tensors["fc.weight"], fused)
    norm = weights(checkpoint, "encoder.output_norm_enc.weight")
    np.testing.assert_array_equal(result.tensors["enc.output_norm.weight"], norm)
    assert result.keys["attention.sliding_window"] == 32
    assert result.keys["attention.sliding_window_pattern"] == [True, False]
    assert "attention.causal" not in result.keys  # it looks both ways in sliding layers too
    assert result.keys["target_layers"] == [2, 5, 9]


def test_muse_glimmers_defaults_are_those_of_its_class(tmp_path: Path) -> None:
    keys = converted(tmp_path, sample("h-muse", rope_parameters=None, layer_types=None)).keys
    assert keys["rope.freq_base"] == 500000.0
    assert keys["attention.sliding_window_pattern"] == [True, True]
    _problem(tmp_path, sample("h-muse", layer_types=["full_attention"]), "`layer_types`: found")


# ---- MiMo -------------------------------------------------------------------------------------


def _mimo_row(checkpoint: Checkpoint) -> np.ndarray[Any, Any]:
    assert checkpoint.mask_embedding is not None
    return np.asarray(checkpoint.mask_embedding[1])


def test_mimos_mask_row_goes_into_a_copy_of_the_verifiers_embedding(tmp_path: Path) -> None:
    checkpoint = sample("j-mimo")
    result = converted(tmp_path, checkpoint)
    embedding, head = target_weights().values()
    stored = result.tensors["token_embd.weight"]
    row = _mimo_row(checkpoint)
    assert not np.array_equal(embedding[MASK], row)
    np.testing.assert_array_equal(stored[MASK], row)
    others = np.arange(N_VOCAB) != MASK
    np.testing.assert_array_equal(stored[others], embedding[others])
    np.testing.assert_array_equal(result.tensors["output.weight"], head)


def test_mimos_sinks_and_scale_arrive(tmp_path: Path) -> None:
    checkpoint = sample("j-mimo")
    result = converted(tmp_path, checkpoint)
    assert result.keys["attention.value_scale"] == pytest.approx(0.707)
    assert result.keys["attention.sliding_window_pattern"] == [True, True]
    sinks = weights(checkpoint, "layers.1.self_attn.attention_sink_bias")
    np.testing.assert_array_equal(result.tensors["blk.1.attn_sinks.weight"], sinks)


def test_other_names_of_sinks_are_known(tmp_path: Path) -> None:
    for name in ("sinks", "sinks.weight", "attention_sink_bias.weight", "learnable_sink_param"):
        sinks = np.arange(4, dtype=np.float32)
        named = with_tensors(
            sample("a-zlab"), **{f"layers.{i}.self_attn.{name}": sinks for i in (0, 1)}
        )
        stored = converted(tmp_path, named).tensors["blk.0.attn_sinks.weight"]
        np.testing.assert_array_equal(stored, sinks)


def test_a_quantised_verifiers_rows_are_dequantised(tmp_path: Path) -> None:
    checkpoint = sample("j-mimo")
    source = write_checkpoint(tmp_path / "drafter", checkpoint)
    embedding, head = target_weights().values()
    kind = gguf.GGMLQuantizationType.Q8_0
    path = tmp_path / "v.gguf"
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_block_count(N_VERIFIER_LAYERS)
    writer.add_embedding_length(N_EMBD)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"token {i}" for i in range(N_VOCAB)])
    for name, rows in (("token_embd.weight", embedding), ("output.weight", head)):
        writer.add_tensor(name, gguf.quants.quantize(rows, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    output = convert(source, path, tmp_path / "d.gguf", outtype="f32").output
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(output).tensors}
    expected = gguf.quants.dequantize(gguf.quants.quantize(embedding, kind), kind)
    expected[MASK] = _mimo_row(checkpoint)
    np.testing.assert_array_equal(stored["token_embd.weight"].data, expected)
    copied = stored["output.weight"]  # as it is: it takes less room
    assert copied.tensor_type == kind
    np.testing.assert_array_equal(copied.data, gguf.quants.quantize(head, kind))


def test_a_mask_embedding_must_be_for_the_mask_token_and_fit(tmp_path: Path) -> None:
    checkpoint = sample("j-mimo")
    other = replace(checkpoint, mask_embedding=(MASK - 1, _mimo_row(checkpoint)))
    _problem(tmp_path, other, f"mask_embedding.pt is for token {MASK - 1}, the config has {MASK}")
    short = replace(checkpoint, mask_embedding=(MASK, _mimo_row(checkpoint)[:HEAD_DIM]))
    _problem(tmp_path, short, "found (16,), expected a vector of 64 numbers")

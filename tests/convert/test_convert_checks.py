"""What the converter makes of configs, odd tensors and verifiers that do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import convert_samples as samples
import numpy as np
import pytest
from convert_runs import keys_of, run
from dflash_local.convert import convert
from dflash_local.convert.layouts.target_layers import default_ids
from dflash_local.convert.writing.encode import out_type, stored_type

from dflash_local.errors import ModelError
from dflash_local.files.layer_ids import layer_inputs, published_ids


def test_missing_unknown_and_wrong_tensors_are_all_listed_in_one_error(tmp_path: Path) -> None:
    weights = samples.tensors(bogus__weight=(3,))
    del weights["layers.1.self_attn.q_norm.weight"], weights["norm.weight"]
    weights["layers.0.mlp.up_proj.weight"] = np.ones((7, 64), np.float32)
    with pytest.raises(ModelError) as caught:
        run(tmp_path, weights=weights, n_embd=128)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("5 problems")
    assert lines[1:] == [
        "  - missing tensor layers.1.self_attn.q_norm.weight (16,)",
        "  - missing tensor norm.weight (64,)",
        "  - unknown tensor bogus.weight (3,): nothing would read it",
        "  - tensor layers.0.mlp.up_proj.weight: found shape (7, 64), expected (96, 64)",
        "  - hidden size: the drafter has 64, the verifier verifier.gguf 128",
    ]


def test_a_tensor_twice_or_of_whole_numbers_is_refused(tmp_path: Path) -> None:
    source = samples.checkpoint(
        tmp_path / "d", weights=samples.tensors(model__fc__weight=(64, 192))
    )
    target = samples.verifier(tmp_path / "v.gguf")
    with pytest.raises(ModelError, match=r"fc.weight is there twice"):
        convert(source, target, tmp_path / "d.gguf")
    samples.checkpoint(source, dtype="I64")
    with pytest.raises(ModelError, match=r"norm.weight: found type I64, expected one of F16, BF16"):
        convert(source, target, tmp_path / "d.gguf")


def test_all_config_problems_are_listed_in_one_error(tmp_path: Path) -> None:
    settings = samples.config(
        {"mask_token_id": -1, "target_layer_ids": [1, 1]},
        hidden_size=None,
        num_key_value_heads=3,
        block_size=1,
        attention_bias=True,
        hidden_act="relu",
        rope_scaling={"rope_type": "longrope", "factor": 4},
        quantization_config={"quant_method": "fp8"},
    )
    with pytest.raises(ModelError) as caught:
        run(tmp_path, settings)
    text = str(caught.value)
    assert "config.json: 9 problems" in text
    for name in (
        "`hidden_size`: found nothing",
        "`num_key_value_heads`: found 3, expected a divisor of the 4 heads",
        "`block_size`: found 1, expected an integer from 2",
        "`mask_token_id`: found -1",
        "`target_layer_ids`: found [1, 1], expected a list of distinct integers",
        "`attention_bias`",
        "`hidden_act`: found 'relu'",
        "`rope_type`: found 'longrope'",
        "`quantization_config`",
    ):
        assert name in text


def test_all_misfits_of_the_pair_are_listed_in_one_error(tmp_path: Path) -> None:
    settings = samples.config({"mask_token_id": 260, "target_layer_ids": [1, 4, 9]}, vocab_size=300)
    with pytest.raises(ModelError) as caught:
        run(tmp_path, settings, n_embd=32, n_layer=9)
    text = str(caught.value)
    assert "the drafter has 64, the verifier verifier.gguf 32" in text
    assert "the drafter has 300 tokens, the verifier verifier.gguf 260" in text
    assert "trained for a verifier with 10, verifier.gguf has 9" in text
    assert "target layer 9 does not exist: the verifier has 9 layers, 0 to 8" in text
    assert "mask token 260 has no row" in text


def test_published_ids_are_outputs_and_gguf_has_inputs() -> None:
    assert layer_inputs([-1, 0, 5]) == [0, 1, 6]
    assert published_ids([0, 1, 6]) == [-1, 0, 5]
    assert default_ids(36, 5) == [1, 9, 17, 25, 33]
    assert default_ids(28, 1) == [14]


def test_the_last_layers_output_needs_a_graph_that_offers_it(tmp_path: Path) -> None:
    settings = samples.config({"target_layer_ids": [1, 4, 9]})
    with pytest.raises(ModelError, match=r"layer 9 is the verifier's last: .*'llama'.* up to 8"):
        run(tmp_path, settings)
    assert keys_of(tmp_path, settings, arch="mimo2")["target_layers"] == [2, 5, 10]


def test_layers_for_multi_token_prediction_do_not_count(tmp_path: Path) -> None:
    extra = {"llama.nextn_predict_layers": 1}
    assert run(tmp_path, n_layer=11, extra=extra).n_tensors == 25
    with pytest.raises(ModelError, match="trained for a verifier with 10"):
        run(tmp_path, n_layer=11)


def test_absent_layer_ids_become_zlabs_default(tmp_path: Path) -> None:
    weights = samples.tensors()
    weights["fc.weight"] = weights["fc.weight"][:, : 2 * samples.N_EMBD]
    report = run(tmp_path, samples.config({"target_layer_ids": None}), weights)
    assert samples.read(report.output)[0]["dflash.target_layers"] == [2, 8]
    assert "default" in report.warnings[0]


def test_top_level_fields_serve_where_dflash_config_is_silent(tmp_path: Path) -> None:
    settings = samples.config(
        dflash_config=None,
        mask_token_id=7,
        target_layer_ids=[0, 2, 3],
        block_size=None,
    )
    keys = keys_of(tmp_path, settings)
    assert keys["tokenizer.ggml.mask_token_id"] == 7
    assert keys["target_layers"] == [1, 3, 4]
    assert keys["block_size"] == 16
    nested = samples.config({"block_size": 10, "mask_token_id": 9}, mask_token_id=7)
    assert keys_of(tmp_path, nested)["block_size"] == 10
    assert keys_of(tmp_path, nested)["tokenizer.ggml.mask_token_id"] == 9


def test_a_missing_mask_token_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"`mask_token_id`: found nothing"):
        run(tmp_path, samples.config({"mask_token_id": None}))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, None), ({"is_causal": False}, False), ({"is_causal": True}, True)],
)
def test_causal_is_written_only_where_the_config_says_so(
    tmp_path: Path, changes: dict[str, Any], expected: bool | None
) -> None:
    assert keys_of(tmp_path, samples.config(**changes)).get("attention.causal") is expected
    nested = {"causal": changes["is_causal"]} if changes else {}
    assert keys_of(tmp_path, samples.config(nested)).get("attention.causal") is expected


SLIDING, FULL = "sliding_attention", "full_attention"


def test_sliding_layers_are_written(tmp_path: Path) -> None:
    mixed = samples.config(
        use_sliding_window=True, sliding_window=64, layer_types=[SLIDING, FULL], is_causal=False
    )
    keys = keys_of(tmp_path, mixed)
    assert keys["attention.sliding_window"] == 64
    assert keys["attention.sliding_window_pattern"] == [True, False]
    everywhere = keys_of(tmp_path, samples.config({"use_swa": True, "swa_window_size": 32}))
    assert everywhere["attention.sliding_window_pattern"] == [True, True]
    later = samples.config(
        use_sliding_window=True, sliding_window=64, max_window_layers=1, is_causal=True
    )
    assert keys_of(tmp_path, later)["attention.sliding_window_pattern"] == [False, True]


@pytest.mark.parametrize(
    "changes",
    [
        {"use_sliding_window": False, "sliding_window": 64},
        {"use_sliding_window": True, "sliding_window": 64, "layer_types": [FULL, FULL]},
    ],
)
def test_a_window_that_no_layer_has_is_not_written(tmp_path: Path, changes: dict[str, Any]) -> None:
    keys = keys_of(tmp_path, samples.config(**changes))
    assert not [name for name in keys if "sliding" in name]


def test_sliding_layers_are_causal_unless_the_config_says_otherwise(tmp_path: Path) -> None:
    window = {"use_sliding_window": True, "sliding_window": 64}
    keys = keys_of(tmp_path, samples.config(**window, layer_types=[SLIDING, SLIDING]))
    assert keys["attention.causal"] is True
    mixed = samples.config(**window, layer_types=[FULL, SLIDING])
    with pytest.raises(ModelError, match=r"causal in layers 1 and bidirectional in layers 0, but"):
        run(tmp_path, mixed)
    # Bidirectional like full layers where only `use_swa` makes them slide.
    swa = samples.config({"use_swa": True, "swa_window_size": 32}, layer_types=[FULL, FULL])
    assert "attention.causal" not in keys_of(tmp_path, swa)


def test_head_dim_is_taken_from_the_weights_where_the_config_is_silent(tmp_path: Path) -> None:
    weights = samples.tensors()
    for i in range(samples.N_LAYER):
        for name, rows in (("q", 32 * 4), ("k", 32 * 2), ("v", 32 * 2)):
            weights[f"layers.{i}.self_attn.{name}_proj.weight"] = np.ones((rows, 64), np.float32)
        weights[f"layers.{i}.self_attn.o_proj.weight"] = np.ones((64, 128), np.float32)
        for name in "qk":
            weights[f"layers.{i}.self_attn.{name}_norm.weight"] = np.ones(32, np.float32)
    report = run(tmp_path, samples.config(head_dim=None), weights)
    assert samples.read(report.output)[0]["dflash.attention.key_length"] == 32


def test_scales_and_activation_are_written(tmp_path: Path) -> None:
    nested = {"input_embedding_scale": 8, "output_multiplier": 0.5, "final_logit_softcapping": 30.0}
    keys = keys_of(tmp_path, samples.config(nested, hidden_act="gelu_pytorch_tanh"))
    assert keys["embedding_scale"] == 8.0
    assert keys["logit_scale"] == 0.5
    assert keys["final_logit_softcapping"] == 30.0
    assert keys["hidden_activation"] == "gelu_pytorch_tanh"


def test_own_embedding_and_head_are_kept_or_left_out_as_the_config_says(tmp_path: Path) -> None:
    vocabulary = {"embed_tokens__weight": (260, 64), "lm_head__weight": (260, 64)}
    weights = samples.tensors(**vocabulary)
    _, stored = samples.read(run(tmp_path, weights=weights).output)
    np.testing.assert_array_equal(stored["token_embd.weight"].data, weights["embed_tokens.weight"])
    np.testing.assert_array_equal(stored["output.weight"].data, weights["lm_head.weight"])
    _, stored = samples.read(run(tmp_path, samples.config(has_embed_tokens=False), weights).output)
    assert "token_embd.weight" not in stored
    assert "output.weight" in stored


def test_an_untied_embedding_never_becomes_the_head(tmp_path: Path) -> None:
    weights = samples.tensors(embed_tokens__weight=(260, 64))
    run(tmp_path, samples.config(tie_word_embeddings=True), weights, head=True)
    for settings in (samples.config(tie_word_embeddings=False), samples.config()):
        if settings["tie_word_embeddings"]:
            del settings["tie_word_embeddings"]  # then the verifier's own head tells
        with pytest.raises(ModelError, match=r"embed_tokens.weight without lm_head.weight"):
            run(tmp_path, settings, weights, head=True)


def test_nemo_automodels_name_is_the_same_layout(tmp_path: Path) -> None:
    settings = samples.config(architectures=["Qwen3DFlashDraftModel"])
    assert run(tmp_path, settings).n_tensors == 25


def test_config_must_be_a_json_object(tmp_path: Path) -> None:
    source = samples.checkpoint(tmp_path / "d")
    target = samples.verifier(tmp_path / "v.gguf")
    for text, message in (("[1]", "holds a list"), ("{", "not valid JSON"), ("[" * 9999, "JSON")):
        (source / "config.json").write_text(text)
        with pytest.raises(ModelError, match=message):
            convert(source, target, tmp_path / "d.gguf")
    (source / "config.json").write_text(json.dumps(samples.config(dflash_config=[1])))
    with pytest.raises(ModelError, match=r"`dflash_config`: found \[1\], expected an object"):
        convert(source, target, tmp_path / "d.gguf")


def test_upstreams_rule_for_types_is_kept_for_tensors_of_later_layouts() -> None:
    wanted = out_type("q8_0")
    assert stored_type("blk.0.attn_conv_base", (2, 3, 64), wanted).name == "F32"
    assert stored_type("selector_hidden.weight", (8, 64), wanted).name == "Q8_0"
    with pytest.raises(ModelError, match=r"found 'q2_k', expected one of f32, f16, bf16, q8_0"):
        out_type("q2_k")

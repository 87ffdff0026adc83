"""Drafters that no dflash file can hold are refused with the reason and the way out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import convert_samples as samples
import numpy as np
import pytest
from dflash_local.convert import convert
from dflash_local.convert.layouts import registry as layouts
from dflash_local.convert.layouts.names import match
from dflash_local.convert.reading.source import open_source
from layout_files import write_checkpoint
from layout_samples import SAMPLES

from dflash_local.errors import ModelError


def _refused(
    tmp_path: Path, settings: dict[str, Any], weights: dict[str, np.ndarray] | None = None
) -> str:
    source = samples.checkpoint(tmp_path / "drafter", settings, weights)
    target = samples.verifier(tmp_path / "v" / "v.gguf")
    with pytest.raises(ModelError) as caught:
        convert(source, target, tmp_path / "d.gguf")
    assert samples.names(tmp_path) == ["drafter", "v"]
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "tensors", "reason", "way_out"),
    [
        ({"projector_type": "domino"}, (), "Domino", "train a DFlash drafter"),
        ({}, ("prefix_gru__weight_ih",), "Domino", "train a DFlash drafter"),
        ({"dflash_config": {"projector_type": "x"}}, (), "`projector_type` 'x'", "llama.cpp"),
        ({"architectures": ["DFlashLagunaForCausalLM"]}, (), "Laguna", "26669"),
        ({}, ("model__aux_hidden_norms__0__weight",), "Laguna", "26669"),
        ({"architectures": ["QwenDFlareDraftModel"]}, (), "DFlare", "train a DFlash drafter"),
        ({}, ("fusion_weights",), "DFlare", "train a DFlash drafter"),
        ({"architectures": ["DeepseekV4DSparkModel"]}, (), "DeepSeek", "--dspark"),
    ],
)
def test_foreign_heads_are_refused_with_a_way_out(
    tmp_path: Path, changes: dict[str, Any], tensors: tuple[str, ...], reason: str, way_out: str
) -> None:
    weights = samples.tensors(**dict.fromkeys(tensors, (4, 4)))
    message = _refused(tmp_path, samples.config(**changes), weights)
    assert "cannot be converted" in message
    assert reason in message
    assert way_out in message


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"architectures": ["Qwen3ForCausalLM"]}, "found architecture 'Qwen3ForCausalLM', which"),
        ({"architectures": None}, "found no `architectures`, which"),
        ({"architectures": []}, "found no `architectures`, which"),
        (
            {"architectures": ["Gemma4DSparkModel"], "transformer_layer_config": {}},
            "'Gemma4DSparkModel' with `transformer_layer_config`",
        ),
        ({"architectures": ["DflashDraftModel"]}, "found architecture 'DflashDraftModel', which"),
    ],
)
def test_unknown_layouts_are_told_what_is_known(
    tmp_path: Path, changes: dict[str, Any], found: str
) -> None:
    message = _refused(tmp_path, samples.config(**changes))
    assert found in message
    assert "expected DFlashDraftModel or Qwen3DFlashDraftModel (z-lab DFlash); " in message
    assert "DFlashSpeculator" in message


def test_layers_without_norms_of_queries_and_keys_are_refused(tmp_path: Path) -> None:
    weights = {name: rows for name, rows in samples.tensors().items() if "_norm" not in name}
    assert "no q_norm and k_norm (plain Llama layers)" in _refused(
        tmp_path, samples.config(), weights
    )


def test_mixtures_of_experts_are_refused(tmp_path: Path) -> None:
    weights = samples.tensors(layers__0__mlp__experts__0__gate_proj__weight=(96, 64))
    assert "a mixture of experts in the drafter" in _refused(tmp_path, samples.config(), weights)


def test_biases_are_refused_with_and_without_a_flag(tmp_path: Path) -> None:
    weights = samples.tensors(layers__1__self_attn__q_proj__bias=(64,))
    message = _refused(tmp_path, samples.config(attention_bias=True), weights)
    assert "`attention_bias`: found true, but llama.cpp's dflash graph loads no biases" in message
    silent = samples.config(attention_bias=None)
    assert "unknown tensor layers.1.self_attn.q_proj.bias" in _refused(tmp_path, silent, weights)


def test_quantised_checkpoints_are_refused_in_nested_configs_too(tmp_path: Path) -> None:
    quantised = {"quant_method": "fp8"}
    flat = samples.config(quantization_config=quantised)
    assert "`quantization_config`: quantised weights are not read" in _refused(tmp_path, flat)
    nested = samples.config(
        transformer_layer_config=samples.config(), quantization_config=quantised
    )
    assert "`quantization_config`" in _refused(tmp_path, nested)


ODD: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    3,
    10**12,
    0.5,
    1e300,
    "x",
    [],
    [1],
    [None],
    {},
    {"a": 1},
)
ADDED = ("is_causal", "markov_rank", "draft_vocab_size", "conv_kernel_size", "rope_parameters")


def _fields(config: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in config.items():
        yield (*above, name)
        if isinstance(value, dict):
            yield from _fields(value, (*above, name))


def _changed(config: Any, path: tuple[str, ...], value: Any) -> dict[str, Any]:
    name, *below = path
    inner = _changed(config[name], tuple(below), value) if below else value
    return {**config, name: inner}


@pytest.mark.parametrize("name", ["a-yarn", "b-scales", "e-dspark", "dprime-older", "f-gemma4"])
def test_whatever_a_field_holds_the_config_is_read_or_refused(name: str, tmp_path: Path) -> None:
    checkpoint = open_source(write_checkpoint(tmp_path / "drafter", SAMPLES[name]))
    base = {**dict.fromkeys(ADDED), **checkpoint.config}
    n_refused = 0
    for path, value in itertools.product(_fields(base), ODD):
        source = replace(checkpoint, config=_changed(base, path, value))
        try:
            layout = layouts.detect(source)
            config = layout.parse_config(source)
            match(source, layout.expected_tensors(config, source))
        except ModelError:
            n_refused += 1
    assert n_refused > 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_size": 1000}, "dflash.block_size: found 1000, expected a number from 2 to 256"),
        ({"rms_norm_eps": 2.0}, "layer_norm_rms_epsilon: found 2.0, expected a number from 0 to 1"),
    ],
)
def test_a_file_that_libllama_could_not_run_is_not_left_behind(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    assert message in _refused(tmp_path, samples.config(**changes))

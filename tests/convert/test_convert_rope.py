"""What the converter makes of the rotary embedding that a config describes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import convert_samples as samples
import numpy as np
import pytest
from convert_runs import keys_of, run
from dflash_local.convert.layouts.rope import Llama3Scaling, llama3_factors

from dflash_local.errors import ModelError

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def test_llama3_scaling_becomes_rope_freqs(tmp_path: Path) -> None:
    report = run(tmp_path, samples.config(rope_scaling=LLAMA3))
    keys, stored = samples.read(report.output)
    expected = [_llama3_by_hand(500000.0 ** (-i / 16)) for i in range(0, 16, 2)]
    assert stored["rope_freqs.weight"].data.tolist() == pytest.approx(expected, rel=1e-6)
    assert 1.0 < expected[4] < 8.0 or 1.0 < expected[5] < 8.0  # the blended part is in the sample
    assert not [name for name in keys if name.startswith("dflash.rope.scaling")]
    renamed = samples.config(rope_parameters={**LLAMA3, "rope_theta": 500000.0}, rope_theta=None)
    keys, again = samples.read(run(tmp_path, renamed).output)
    assert again["rope_freqs.weight"].data.tolist() == stored["rope_freqs.weight"].data.tolist()
    assert keys["dflash.rope.freq_base"] == 500000.0


def _llama3_by_hand(frequency: float) -> float:
    wavelength = 2 * np.pi / frequency
    if wavelength < 8192 / 4:
        return 1.0
    if wavelength > 8192 / 1:
        return 8.0
    smooth = (8192 / wavelength - 1) / (4 - 1)
    return 1 / ((1 - smooth) / 8 + smooth)


def test_llama3_factors_are_those_of_llama_3_1() -> None:
    # From the published Llama-3.1-8B GGUF: head 128, theta 500000, factor 8.
    factors = llama3_factors(Llama3Scaling(8.0, 1.0, 4.0, 8192.0), 500000.0, 128)
    assert factors[:29].tolist() == [1.0] * 29
    assert factors[35:].tolist() == [8.0] * 29
    assert np.all(np.diff(factors[28:36]) > 0)


def test_linear_and_yarn_scaling_become_keys(tmp_path: Path) -> None:
    linear = keys_of(tmp_path, samples.config(rope_scaling={"type": "linear", "factor": 2}))
    assert (linear["rope.scaling.type"], linear["rope.scaling.factor"]) == ("linear", 2.0)
    scaling = {
        "rope_type": "yarn",
        "factor": 4,
        "original_max_position_embeddings": 512,
        "beta_fast": 32,
    }
    yarn = keys_of(tmp_path, samples.config(rope_scaling=scaling))
    assert {k: v for k, v in yarn.items() if k.startswith("rope.scaling.")} == {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 4.0,
        "rope.scaling.original_context_length": 512,
        "rope.scaling.yarn_beta_fast": 32.0,
    }


@pytest.mark.parametrize(
    "setting",
    [
        {"beta_fast": 16},
        {"beta_slow": 4},
        {"truncate": False},
        {"mscale": 1.0, "mscale_all_dim": 0.5},
        {"attention_factor": 1.25},
    ],
)
def test_yarn_that_libllama_reads_no_keys_of_becomes_factors(
    setting: dict[str, Any], tmp_path: Path
) -> None:
    """It reads them for grok and mistral3; for a drafter it computes with its defaults."""
    usual = {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 512}
    config = samples.config(rope_scaling={**usual, **setting})
    keys = keys_of(tmp_path, config)
    (name,) = (key for key in keys if key.startswith("rope.scaling."))
    scale = 0.1 * math.log(4) + 1
    expected = {"mscale": scale / (0.05 * math.log(4) + 1), "attention_factor": 1.25}
    assert name == "rope.scaling.attn_factor"
    assert keys[name] == pytest.approx(expected.get(next(iter(setting)), scale))
    _, tensors = samples.read(run(tmp_path, config).output)
    factors = tensors["rope_freqs.weight"].data
    assert factors.shape == (8,)
    assert (factors[0], factors[-1]) == (1.0, 4.0)
    assert np.all(np.diff(factors) >= 0)


@pytest.mark.parametrize("setting", [{"beta_fast": 1e-300}, {"extrapolation_factor": 2.0}])
def test_yarn_out_of_bounds_is_refused(setting: dict[str, Any], tmp_path: Path) -> None:
    usual = {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 512}
    with pytest.raises(ModelError, match=next(iter(setting))):
        run(tmp_path, samples.config(rope_scaling={**usual, **setting}))
    with pytest.raises(ModelError, match="expected more than 1 with YaRN"):
        run(tmp_path, samples.config(rope_theta=1.0, rope_scaling=usual))


def test_a_part_of_the_head_may_rotate(tmp_path: Path) -> None:
    keys = keys_of(tmp_path, samples.config(partial_rotary_factor=0.5))
    assert keys["rope.dimension_count"] == 8
    with pytest.raises(ModelError, match="partial_rotary_factor"):
        run(tmp_path, samples.config(partial_rotary_factor=0.5, rope_scaling=LLAMA3))


def test_multi_axis_verifiers_give_one_temporal_section(tmp_path: Path) -> None:
    sections = {"llama.rope.dimension_sections": [2, 3, 3, 0]}
    keys = keys_of(tmp_path, samples.config(), extra=sections)
    assert keys["rope.dimension_sections"] == [8, 0, 0, 0]
    own = {"rope_type": "mrope", "mrope_section": [2, 3, 3]}
    keys = keys_of(tmp_path, samples.config(rope_scaling=own))
    assert keys["rope.dimension_sections"] == [8, 0, 0, 0]
    with pytest.raises(ModelError, match="M-RoPE"):
        run(tmp_path, samples.config(rope_scaling=LLAMA3), extra=sections)


def test_interleaved_rope_is_sorted_into_halves(tmp_path: Path) -> None:
    weights = samples.tensors()
    weights["layers.0.self_attn.q_norm.weight"] = np.arange(16, dtype=np.float32)
    report = run(tmp_path, samples.config(rope_is_neox_style=False), weights)
    _, stored = samples.read(report.output)
    order = [*range(0, 16, 2), *range(1, 16, 2)]
    assert stored["blk.0.attn_q_norm.weight"].data.tolist() == order
    rows = [head * 16 + i for head in range(samples.N_HEAD_KV) for i in order]
    keys = weights["layers.1.self_attn.k_proj.weight"]
    np.testing.assert_array_equal(stored["blk.1.attn_k.weight"].data, keys[rows])
    values = weights["layers.1.self_attn.v_proj.weight"]
    np.testing.assert_array_equal(stored["blk.1.attn_v.weight"].data, values)

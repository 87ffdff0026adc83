"""Both spellings of a rotary embedding in config.json: refused where they contradict each other,
and the same to the GGUF and to training where they do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import convert_samples as samples
import numpy as np
import pytest
from dflash_local.convert import convert
from dflash_local.convert.checking.forward_ops import rotary_table
from dflash_local.convert.layouts.rope import parse_rope
from dflash_local.convert.reading.fields import Fields

from dflash_local.errors import DFlashError, ModelError

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}
LINEAR = {"rope_type": "linear", "factor": 2.0}
DEFAULT = {"rope_type": "default", "rope_theta": 1e6}
Config = dict[str, Any]


def config(**rope: Any) -> Config:
    """The sample's, with nothing but this about its rotary embedding."""
    return samples.config(**{"rope_theta": None, "rope_scaling": None, **rope})


def keys_of(folder: Path, settings: Config) -> dict[str, Any]:
    source = samples.checkpoint(folder / "d", settings)
    report = convert(source, samples.verifier(folder / "v.gguf"), folder / "out.gguf")
    keys, _ = samples.read(report.output)
    begin = "dflash.rope."
    return {name.removeprefix(begin): v for name, v in keys.items() if name.startswith(begin)}


CONTRADICTIONS: dict[str, tuple[Config, str]] = {
    "kind": (
        {"rope_parameters": DEFAULT, "rope_scaling": YARN},
        "`rope_type`: `rope_parameters` says 'default', `rope_scaling` says 'yarn'",
    ),
    "kind the other way": (
        {"rope_parameters": {**YARN, "rope_theta": 1e6}, "rope_scaling": {"type": "default"}},
        "`rope_type`: `rope_parameters` says 'yarn', `rope_scaling` says 'default'",
    ),
    "factor": (
        {"rope_parameters": {**YARN, "rope_theta": 1e6}, "rope_scaling": {**YARN, "factor": 8.0}},
        "`factor`: `rope_parameters` says 4.0, `rope_scaling` says 8.0",
    ),
    "theta": (
        {"rope_parameters": DEFAULT, "rope_theta": 5e5},
        "`rope_theta`: `rope_parameters` says 1000000.0, config.json itself says 500000.0",
    ),
    "theta in both sections": (
        {"rope_parameters": {**YARN, "rope_theta": 1e6}, "rope_scaling": {**YARN, "rope_theta": 1}},
        "`rope_theta`: `rope_parameters` says 1000000.0, `rope_scaling` says 1",
    ),
    "a share": (
        {"rope_parameters": {**DEFAULT, "partial_rotary_factor": 0.5}, "partial_rotary_factor": 1},
        "`partial_rotary_factor`: `rope_parameters` says 0.5, config.json itself says 1",
    ),
    "an older context": (
        {"rope_scaling": YARN, "original_max_position_embeddings": 256},
        "`original_max_position_embeddings`: `rope_scaling` says 512, config.json itself says 256",
    ),
    "two types in one section": (
        {"rope_scaling": {**YARN, "type": "linear"}},
        "`rope_scaling`: `rope_type` is 'yarn', `type` is 'linear'",
    ),
    "by layers": (
        {
            "rope_parameters": {
                "full_attention": {**YARN, "rope_theta": 1e6},
                "sliding_attention": DEFAULT,
            }
        },
        "`rope_parameters`: full and sliding attention have different `rope_type`",
    ),
    "theta by layers": (
        {
            "rope_parameters": {
                "full_attention": DEFAULT,
                "sliding_attention": {**DEFAULT, "rope_theta": 1e4},
            }
        },
        "`rope_parameters`: full and sliding attention have different `rope_theta`",
    ),
    "not an object": ({"rope_scaling": "yarn"}, "`rope_scaling`: found 'yarn', expected an object"),
}

AGREEMENTS: dict[str, tuple[Config, float]] = {
    "older": ({"rope_scaling": YARN, "rope_theta": 1e6}, 1e6),
    "newer": ({"rope_parameters": {**YARN, "rope_theta": 1e6}}, 1e6),
    "newer, theta beside it": ({"rope_parameters": YARN, "rope_theta": 1e6}, 1e6),
    "both": ({"rope_parameters": {**YARN, "rope_theta": 1e6}, "rope_scaling": YARN}, 1e6),
    "both, and theta": (
        {"rope_parameters": {**YARN, "rope_theta": 1e6}, "rope_scaling": YARN, "rope_theta": 1e6},
        1e6,
    ),
    "other words for the same": (
        {
            "rope_parameters": {**YARN, "rope_theta": 1000000},
            "rope_scaling": {"type": "YaRN", "factor": 4, "original_max_position_embeddings": 512},
        },
        1e6,
    ),
    "theta in the one, scaling in the other": (
        {"rope_parameters": {"rope_theta": 1e6}, "rope_scaling": YARN},
        1e6,
    ),
    "by layers": ({"rope_parameters": {"full_attention": {**YARN, "rope_theta": 1e6}}}, 1e6),
    "no theta": ({"rope_scaling": YARN}, 1e4),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_contradiction_is_refused_with_both_values(name: str, tmp_path: Path) -> None:
    rope, message = CONTRADICTIONS[name]
    with pytest.raises(ModelError) as caught:
        keys_of(tmp_path, config(**rope))
    assert message in str(caught.value)
    assert "1 problem" in str(caught.value)


@pytest.mark.parametrize("name", AGREEMENTS)
def test_what_agrees_is_written_once(name: str, tmp_path: Path) -> None:
    rope, theta = AGREEMENTS[name]
    keys = keys_of(tmp_path, config(**rope))
    assert keys.get("freq_base", 1e4) == theta
    assert keys["scaling.type"] == "yarn"
    assert keys["scaling.factor"] == 4.0
    assert keys["scaling.original_context_length"] == 512


def test_an_empty_section_says_nothing(tmp_path: Path) -> None:
    keys = keys_of(tmp_path, config(rope_parameters={}, rope_scaling=YARN, rope_theta=5e5))
    assert (keys["freq_base"], keys["scaling.type"]) == (5e5, "yarn")


# ---- training --------------------------------------------------------------------------------


TRAINED: dict[str, Config] = {
    **{name: rope for name, (rope, _) in AGREEMENTS.items()},
    "default": {"rope_parameters": DEFAULT},
    "default, older": {"rope_theta": 1e6},
    "llama3": {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}, "rope_scaling": LLAMA3},
    "linear": {"rope_scaling": LINEAR, "rope_theta": 1e6},
    "yarn, all settings": {
        "rope_scaling": {**YARN, "beta_fast": 24.0, "beta_slow": 2.0, "attention_factor": 1.3},
        "rope_theta": 1e6,
    },
}


def _init(folder: Path, rope: Config) -> Path:
    """A drafter's folder, as training goes on from one."""
    folder.mkdir()
    fields = json.dumps(config(**rope))
    (folder / "config.json").write_text(fields, encoding="utf-8-sig")  # some editors' mark
    return folder


@pytest.mark.parametrize("name", TRAINED)
def test_training_turns_by_the_same_angles_as_the_gguf(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from dflash_local.train.config_json import published_fields
    from dflash_local.train.model import Rotation, drafter_config

    problems: list[str] = []
    rope = parse_rope(Fields(config(**TRAINED[name]), problems), samples.HEAD_DIM)
    assert problems == []
    expected = rotary_table(rope, samples.HEAD_DIM, 600)
    fields = published_fields(_init(tmp_path / "init", TRAINED[name]))
    own = Rotation(drafter_config(fields))(torch.arange(600))
    for ours, theirs in zip(own, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-4)


def test_a_trained_drafter_says_it_once_more(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from dflash_local.train.config_json import published_fields

    fields = published_fields(_init(tmp_path / "init", AGREEMENTS["both"][0]))
    keys = keys_of(tmp_path, fields)
    assert (keys["freq_base"], keys["scaling.factor"]) == (1e6, 4.0)


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        (CONTRADICTIONS["factor"][0], "`factor`: `rope_parameters` says 4.0"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "`rope_type`: found 'dynamic'"),
        ({"partial_rotary_factor": 0.5}, "`partial_rotary_factor`: found 0.5"),
        ({"rope_scaling": {**YARN, "extrapolation_factor": 0.5}}, "`extrapolation_factor`: found"),
    ],
)
def test_training_refuses_what_it_cannot_turn_before_it_begins(
    rope: Config, message: str, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    from dflash_local.train.config_json import published_fields

    with pytest.raises(DFlashError) as caught:
        published_fields(_init(tmp_path / "init", rope))
    assert message in str(caught.value)

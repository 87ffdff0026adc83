"""Tensor names as wrappers save them: torch.compile, DDP, FSDP, PEFT, a trainer's own module."""

from __future__ import annotations

from pathlib import Path

import convert_samples as samples
import numpy as np
import pytest
from dflash_local.convert import convert
from dflash_local.convert.reading.wrappers import bare_names

from dflash_local.errors import ModelError

WEIGHTS = samples.tensors()
PREFIXES = [
    "_orig_mod.",
    "module.",
    "draft_model.",
    "model.",
    "drafter.",
    "base_model.model.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "module.draft_model.model.",
    "base_model.model.model.",
    "_forward_module._orig_mod.draft_model.",
    "speculator.inner.net.",  # nobody's that is known here, and common to all tensors
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return _converted(tmp_path_factory.mktemp("plain"), WEIGHTS)


def _converted(folder: Path, weights: dict[str, np.ndarray]) -> bytes:
    source = samples.checkpoint(folder / "d", weights=weights)
    report = convert(source, samples.verifier(folder / "v.gguf"), folder / "out.gguf")
    assert report.warnings == ()
    return report.output.read_bytes()


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_changes_nothing(tmp_path: Path, plain: bytes, prefix: str) -> None:
    renamed = {prefix + name: values for name, values in WEIGHTS.items()}
    assert _converted(tmp_path, renamed) == plain


def test_layers_that_are_wrapped_one_by_one_are_read(tmp_path: Path, plain: bytes) -> None:
    def wrapped(name: str) -> str:
        number = name.removeprefix("layers.").split(".")[0]
        inside = f"layers.{number}.{'_fsdp_wrapped_module' if number == '1' else '_orig_mod'}."
        return name.replace(f"layers.{number}.", inside) if name.startswith("layers.") else name

    renamed = {wrapped(name): values for name, values in WEIGHTS.items()}
    assert renamed.keys() != WEIGHTS.keys()
    assert _converted(tmp_path, renamed) == plain


def test_a_known_prefix_may_be_before_some_names_only(tmp_path: Path, plain: bytes) -> None:
    renamed = {
        f"draft_model.{name}" if name.startswith("layers.") else name: values
        for name, values in WEIGHTS.items()
    }
    assert _converted(tmp_path, renamed) == plain


@pytest.mark.parametrize("other", ["model.", "module.", "_orig_mod."])
def test_a_tensor_under_two_names_is_refused_with_both(tmp_path: Path, other: str) -> None:
    weights = {**WEIGHTS, f"{other}fc.weight": WEIGHTS["fc.weight"]}
    source = samples.checkpoint(tmp_path / "d", weights=weights)
    with pytest.raises(ModelError) as caught:
        convert(source, samples.verifier(tmp_path / "v.gguf"), tmp_path / "out.gguf")
    assert "1 problem" in str(caught.value)
    assert f"tensor fc.weight is there twice, as fc.weight and as {other}fc.weight" in str(
        caught.value
    )


def test_what_is_no_wrapper_stays() -> None:
    names = ["layers.0.a.weight", "layers.1.a.weight"]
    assert bare_names(names) == {name: name for name in names}
    names = ["ema.layers.0.a.weight", "fc.weight"]
    assert bare_names(names) == {name: name for name in names}
    assert bare_names(["module", "model.fc.weight"]) == {
        "module": "module",
        "model.fc.weight": "fc.weight",
    }
    assert bare_names([]) == {}


def test_adapters_that_were_not_merged_are_refused_with_the_way_out(tmp_path: Path) -> None:
    weights = {f"base_model.model.{name}": values for name, values in WEIGHTS.items()}
    lora = "base_model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
    weights[lora] = np.ones((4, 64), np.float32)
    source = samples.checkpoint(tmp_path / "d", weights=weights)
    with pytest.raises(ModelError, match="merge_and_unload"):
        convert(source, samples.verifier(tmp_path / "v.gguf"), tmp_path / "out.gguf")

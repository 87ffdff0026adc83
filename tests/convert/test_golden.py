"""Our files against those of llama.cpp's own converter, on a checkpoint of every layout.

`golden/` holds what upstream wrote. Where it is right our keys and tensors are the same, bit for
bit; `DIFFERENCES` lists where it is not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from dflash_local.convert import convert
from golden.manifest import MASK_TOKEN, OUT_TYPES, Manifest, digest, manifest
from layout_configs import HEAD_DIM, LLAMA3, MASK, QWEN3, YARN
from layout_files import Array, Checkpoint, rounded, values, write_checkpoint, write_verifier
from layout_samples import GOLDEN, SAMPLES

from dflash_local.errors import ModelError

GOLDEN_FILES = Path(__file__).parents[1] / "golden"


@dataclass(frozen=True)
class Difference:
    """Where we write another file than upstream, and why.

    Attributes:
        keys: what we have for a key; None where we have none.
        tensors: matrices that only we write, their values in F32 made from the sample's.
    """

    reason: str
    keys: dict[str, list[Any] | None] = field(default_factory=dict)
    tensors: dict[str, Callable[[], Array]] = field(default_factory=dict)


def _head() -> Array:
    n_vocab, n_embd = SAMPLES["f-dspark"].shapes["lm_head.weight"]
    return rounded(values("lm_head.weight", (n_vocab, n_embd)), "BF16")


HEAD_IS_KEPT = Difference(
    "upstream drops the head of a full vocabulary and libllama then uses the embedding as head",
    tensors={"output.weight": _head},
)
NO_MARKOV_HEAD = Difference(
    "upstream takes a reduced vocabulary only as DSpark, a plain drafter needs no such keys",
    keys={"dflash.sample_from_anchor": None, "dflash.has_confidence_head": None},
)
CAUSAL = {"dflash.attention.causal": ["BOOL", True]}
DIFFERENCES = {
    "a-top-mask": Difference(
        "upstream looks for the mask token in dflash_config alone",
        keys={MASK_TOKEN: ["UINT32", MASK]},
    ),
    "a-gelu": Difference(
        "upstream loses the activation and libllama computes silu",
        keys={"dflash.hidden_activation": ["STRING", "gelu_pytorch_tanh"]},
    ),
    "a-sliding-unsaid": Difference(
        "z-lab's model masks sliding layers causally where `is_causal` does not say otherwise",
        keys=CAUSAL,
    ),
    "a-window-of-no-layer": Difference(
        "a window that no layer has ends libllama's process",
        keys=dict.fromkeys(
            ("dflash.attention.sliding_window", "dflash.attention.sliding_window_pattern")
        ),
    ),
    "a-sparse": Difference(
        "upstream takes transformers' head size of 128, whatever the weights; 10000 is libllama's "
        "own base frequency",
        keys={
            "dflash.attention.key_length": ["UINT32", HEAD_DIM],
            "dflash.attention.value_length": ["UINT32", HEAD_DIM],
            "dflash.rope.freq_base": None,
        },
    ),
    "e-sliding": Difference(
        "speculators trains sliding layers causally, libllama drafts without a causal mask",
        keys=CAUSAL,
    ),
    "e-full": HEAD_IS_KEPT,
    "f-dspark": HEAD_IS_KEPT,
    "f-dflash": HEAD_IS_KEPT,
    **dict.fromkeys(
        ("c-reduced", "c-speculator", "d-start1", "d-start0", "dprime-older"), NO_MARKOV_HEAD
    ),
}
# Follow from the size of the whole file, and so from each difference.
SIZE_LABEL = "general.size_label"


def _ours(checkpoint: Checkpoint, folder: Path) -> Manifest:
    source = write_checkpoint(folder / "drafter", checkpoint)
    verifier = write_verifier(folder / "verifier.gguf", checkpoint.target)
    files = {
        outtype: convert(source, verifier, folder / f"{outtype}.gguf", outtype=outtype).output
        for outtype in OUT_TYPES
    }
    return manifest(files)


def _golden(name: str) -> Manifest:
    content: Manifest = json.loads((GOLDEN_FILES / f"{GOLDEN[name]}.json").read_text())
    return content


def _corrected(golden: Manifest, difference: Difference) -> Manifest:
    keys = {**golden["keys"], **difference.keys}
    keys = {name: value for name, value in keys.items() if value is not None}
    del keys[SIZE_LABEL]
    return {"keys": keys, "tensors": {**golden["tensors"], **_added(difference)}}


def _added(difference: Difference) -> dict[str, Any]:
    return {name: _entry(make()) for name, make in difference.tensors.items()}


def _entry(array: Array) -> dict[str, Any]:
    """A matrix in every outtype, as gguf's own quantiser has it."""
    entry: dict[str, Any] = {"shape": list(array.shape[::-1])}
    for outtype in OUT_TYPES:
        kind = gguf.GGMLQuantizationType[outtype.upper()]
        entry[outtype] = [kind.name, digest(gguf.quants.quantize(array, kind))]
    return entry


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(SAMPLES) - {*DIFFERENCES, "a-llama3", "a-yarn-ramp"}))
def test_keys_and_tensors_are_upstreams_bit_for_bit(name: str, tmp_path: Path) -> None:
    ours, golden = _ours(SAMPLES[name], tmp_path), _golden(name)
    assert ours["keys"] == golden["keys"]
    assert ours["tensors"] == golden["tensors"]


@pytest.mark.parametrize("name", sorted(DIFFERENCES))
def test_where_upstream_is_wrong_only_the_listed_entries_differ(name: str, tmp_path: Path) -> None:
    golden, difference = _golden(name), DIFFERENCES[name]
    for key, value in difference.keys.items():
        assert golden["keys"].get(key) != value, f"upstream is right about {key}"
    assert not golden["tensors"].keys() & difference.tensors.keys()
    ours, expected = _ours(SAMPLES[name], tmp_path), _corrected(golden, difference)
    del ours["keys"][SIZE_LABEL]
    assert ours["keys"] == expected["keys"]
    assert ours["tensors"] == expected["tensors"]


def _llama3_factors() -> list[float]:
    """transformers' rule for Llama 3.1, as factors by which frequencies are divided."""
    factors = []
    for i in range(0, HEAD_DIM, 2):
        wavelength = 2 * math.pi * QWEN3["rope_theta"] ** (i / HEAD_DIM)
        turns = LLAMA3["original_max_position_embeddings"] / wavelength
        low, high = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"]
        kept = min(max((turns - low) / (high - low), 0), 1)
        factors.append(1 / ((1 - kept) / LLAMA3["factor"] + kept))
    return factors


def _written_factors(ours: Manifest, folder: Path) -> Array:
    """Takes rope_freqs.weight out of a manifest; the same F32 numbers whatever the outtype."""
    entry = ours["tensors"].pop("rope_freqs.weight")
    assert all(entry[outtype] == entry["f32"] for outtype in OUT_TYPES)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(folder / "f32.gguf").tensors}
    return np.array(tensors["rope_freqs.weight"].data)


def test_the_scaling_of_llama3_that_upstream_loses_is_the_only_difference(tmp_path: Path) -> None:
    ours, golden = _ours(SAMPLES["a-llama3"], tmp_path), _golden("a-llama3")
    factors = _written_factors(ours, tmp_path)
    assert ours["tensors"] == golden["tensors"]
    assert ours["keys"].keys() == golden["keys"].keys()
    np.testing.assert_allclose(factors, _llama3_factors(), rtol=1e-6)
    assert 1 < factors[2] < factors[-1] == LLAMA3["factor"]


def test_a_ramp_of_yarn_that_libllama_does_not_read_is_written_as_factors(tmp_path: Path) -> None:
    """libllama reads yarn_beta_fast of other architectures only; numbers: test_layouts_torch."""
    ours, golden = _ours(SAMPLES["a-yarn-ramp"], tmp_path), _golden("a-yarn-ramp")
    factors = _written_factors(ours, tmp_path)
    assert ours["tensors"] == golden["tensors"]
    scaling = "dflash.rope.scaling."
    assert golden["keys"][f"{scaling}yarn_beta_fast"] == ["FLOAT32", 24.0]
    others = {k: value for k, value in golden["keys"].items() if not k.startswith(scaling)}
    magnitude = ours["keys"].pop(f"{scaling}attn_factor")
    assert magnitude == ["FLOAT32", pytest.approx(0.1 * math.log(YARN["factor"]) + 1)]
    assert ours["keys"] == {**others, SIZE_LABEL: ours["keys"][SIZE_LABEL]}
    assert 1 == factors[0] < factors[-1] == YARN["factor"]


def test_biases_that_upstream_writes_and_libllama_cannot_load_are_refused(tmp_path: Path) -> None:
    sample = SAMPLES["a-zlab"]
    biased = Checkpoint(
        {**sample.config, "attention_bias": True},
        {**sample.shapes, "layers.0.self_attn.q_proj.bias": (64,)},
    )
    with pytest.raises(ModelError, match="bias"):
        _ours(biased, tmp_path)


def test_every_golden_file_is_used() -> None:
    assert {path.stem for path in GOLDEN_FILES.glob("*.json")} == set(GOLDEN.values())

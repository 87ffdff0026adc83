"""From a checkpoint to GGUF: names, values, keys, the tokenizer, and how the file is written."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import convert_samples as samples
import gguf
import llama_cpp
import numpy as np
import pytest
from dflash_local.convert import convert
from dflash_local.convert.reading.fields import FLOAT32_MAX
from dflash_local.convert.writing.encode import OUT_TYPES

from dflash_local.errors import DFlashError, ModelError

LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GGUF_NAMES = {
    "fc.weight": "fc.weight",
    "hidden_norm.weight": "enc.output_norm.weight",
    "norm.weight": "output_norm.weight",
    **{
        f"layers.{i}.{source}.weight": f"blk.{i}.{target}.weight"
        for i in range(samples.N_LAYER)
        for source, target in LAYER_NAMES.items()
    },
}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint and its verifier."""
    return samples.checkpoint(tmp_path / "drafter"), samples.verifier(tmp_path / "v" / "v.gguf")


def test_every_tensor_arrives_under_its_gguf_name(pair: tuple[Path, Path], tmp_path: Path) -> None:
    report = convert(*pair, tmp_path / "d.gguf", outtype="f32")
    _, stored = samples.read(report.output)
    assert set(stored) == set(GGUF_NAMES.values())
    assert report.n_tensors == len(GGUF_NAMES) == 25
    for name, values in samples.tensors().items():
        np.testing.assert_array_equal(stored[GGUF_NAMES[name]].data, values, err_msg=name)


def test_keys_are_upstreams(pair: tuple[Path, Path], tmp_path: Path) -> None:
    report = convert(*pair, tmp_path / "d.gguf", outtype="f16")
    keys, _ = samples.read(report.output)
    drafter = {name: value for name, value in keys.items() if name.startswith("dflash.")}
    assert drafter == {
        "dflash.block_count": 2,
        "dflash.context_length": 2048,
        "dflash.embedding_length": 64,
        "dflash.feed_forward_length": 96,
        "dflash.attention.head_count": 4,
        "dflash.attention.head_count_kv": 2,
        "dflash.attention.key_length": 16,
        "dflash.attention.value_length": 16,
        "dflash.attention.layer_norm_rms_epsilon": pytest.approx(1e-6),
        "dflash.rope.freq_base": 500000.0,
        "dflash.block_size": 8,
        "dflash.target_layers": [2, 5, 9],
    }
    assert keys["general.architecture"] == "dflash"
    assert keys["general.type"] == "model"
    assert keys["general.file_type"] == gguf.LlamaFileType.MOSTLY_F16
    assert keys["general.quantization_version"] == gguf.GGML_QUANT_VERSION
    assert keys["general.base_model.0.name"] == "Tiny Verifier"
    assert keys["tokenizer.ggml.mask_token_id"] == samples.MASK
    reader = gguf.GGUFReader(report.output)
    assert reader.fields["dflash.target_layers"].types[1] == gguf.GGUFValueType.INT32
    assert reader.fields["dflash.block_size"].types == [gguf.GGUFValueType.UINT32]


def test_tokenizer_comes_over_byte_for_byte(pair: tuple[Path, Path], tmp_path: Path) -> None:
    report = convert(*pair, tmp_path / "d.gguf")
    theirs = samples.raw_keys(pair[1], "tokenizer.")
    ours = samples.raw_keys(report.output, "tokenizer.")
    assert theirs.pop("tokenizer.ggml.mask_token_id") != ours.pop("tokenizer.ggml.mask_token_id")
    assert ours == theirs
    assert len(theirs) == 10
    assert theirs["tokenizer.ggml.empty"] == samples.EMPTY_ARRAY
    assert b"\xff\xfe" in theirs["tokenizer.ggml.tokens"]


def test_f16_and_bf16_round_to_nearest_even(pair: tuple[Path, Path], tmp_path: Path) -> None:
    source = samples.tensors()["fc.weight"]
    _, half = samples.read(convert(*pair, tmp_path / "h.gguf", outtype="f16").output)
    _, brain = samples.read(convert(*pair, tmp_path / "b.gguf").output)
    np.testing.assert_array_equal(half["fc.weight"].data, source.astype(np.float16))
    assert brain["fc.weight"].tensor_type == gguf.GGMLQuantizationType.BF16
    assert brain["fc.weight"].data.tobytes() == samples.bf16_bits(source).tobytes()


def test_bf16_checkpoint_is_read_exactly(pair: tuple[Path, Path], tmp_path: Path) -> None:
    samples.checkpoint(pair[0], dtype="BF16")
    exact = {
        name: (samples.bf16_bits(values).astype(np.uint32) << 16).view(np.float32)
        for name, values in samples.tensors().items()
    }
    _, stored = samples.read(convert(*pair, tmp_path / "d.gguf", outtype="f32").output)
    for name, values in exact.items():
        np.testing.assert_array_equal(stored[GGUF_NAMES[name]].data, values, err_msg=name)


def test_q8_0_blocks_hold_scale_and_rounded_weights(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    _, stored = samples.read(convert(*pair, tmp_path / "d.gguf", outtype="q8_0").output)
    block = samples.tensors()["layers.1.mlp.up_proj.weight"].reshape(-1, 32)[7]
    scale = np.abs(block).max() / np.float32(127)
    data = stored["blk.1.ffn_up.weight"].data.reshape(-1, 34)[7]
    assert data[:2].tobytes() == np.float16(scale).tobytes()
    assert data[2:].view(np.int8).tolist() == np.rint(block / scale).astype(int).tolist()


@pytest.mark.parametrize("outtype", ["f16", "bf16", "q8_0"])
def test_norms_stay_f32(pair: tuple[Path, Path], tmp_path: Path, outtype: str) -> None:
    _, stored = samples.read(convert(*pair, tmp_path / "d.gguf", outtype=outtype).output)
    kinds = {name: tensor.tensor_type.name for name, tensor in stored.items()}
    assert {name for name, kind in kinds.items() if kind == "F32"} == {
        name for name in kinds if "norm" in name
    }
    assert set(kinds.values()) == {"F32", outtype.upper()}


def test_rows_that_are_no_whole_blocks_fall_back_to_f16_and_it_is_said(tmp_path: Path) -> None:
    weights = samples.tensors()
    for i in range(samples.N_LAYER):
        for name, shape in (("gate", (80, 64)), ("up", (80, 64)), ("down", (64, 80))):
            weights[f"layers.{i}.mlp.{name}_proj.weight"] = np.ones(shape, np.float32)
    source = samples.checkpoint(tmp_path / "d", samples.config(intermediate_size=80), weights)
    verifier = samples.verifier(tmp_path / "v.gguf")
    report = convert(source, verifier, tmp_path / "d.gguf", outtype="q8_0")
    _, stored = samples.read(report.output)
    assert stored["blk.0.ffn_down.weight"].tensor_type == gguf.GGMLQuantizationType.F16
    assert stored["blk.0.ffn_up.weight"].tensor_type == gguf.GGMLQuantizationType.Q8_0
    assert [w for w in report.warnings if w.endswith("block: blk.*.ffn_down.weight")]
    assert not convert(source, verifier, tmp_path / "e.gguf", outtype="bf16").warnings


def test_two_runs_give_identical_bytes(pair: tuple[Path, Path], tmp_path: Path) -> None:
    first = convert(*pair, tmp_path / "1.gguf", outtype="q8_0").output.read_bytes()
    backwards = dict(reversed(samples.tensors().items()))
    prefixed = {f"model.{name}": values for name, values in backwards.items()}
    samples.checkpoint(pair[0], weights=prefixed)
    second = convert(*pair, tmp_path / "2.gguf", outtype="q8_0").output.read_bytes()
    assert first == second


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ModelError])
def test_nothing_partial_is_left_and_an_older_file_stays(
    pair: tuple[Path, Path], tmp_path: Path, stop: type[BaseException]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "d.gguf").write_bytes(b"older")
    seen: list[str] = []

    def progress(done: int, total: int) -> None:
        assert 0 < done <= total
        seen.extend(samples.names(out))
        if done > total // 2:
            raise stop("enough")

    with pytest.raises(stop, match="enough"):
        convert(*pair, out / "d.gguf", progress=progress)
    assert any(name.endswith(".part") for name in seen)
    assert samples.names(out) == ["d.gguf"]
    assert (out / "d.gguf").read_bytes() == b"older"


def test_broken_weights_are_refused_by_name(pair: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    weights = samples.tensors()
    weights["norm.weight"][3] = np.nan
    samples.checkpoint(pair[0], weights=weights)
    with pytest.raises(ModelError, match=r"output_norm.weight holds NaN"):
        convert(*pair, out / "d.gguf")
    assert samples.names(out) == []


def test_values_beyond_f16_are_refused_for_f16_alone(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    weights = samples.tensors()
    weights["fc.weight"][0, 0] = 1e6
    samples.checkpoint(pair[0], weights=weights)
    with pytest.raises(ModelError, match=r"fc.weight .* use outtype bf16"):
        convert(*pair, tmp_path / "d.gguf", outtype="f16")
    convert(*pair, tmp_path / "d.gguf", outtype="bf16")


def test_inputs_are_never_overwritten(pair: tuple[Path, Path], tmp_path: Path) -> None:
    source, verifier = pair
    alias = tmp_path / "alias.gguf"
    os.link(verifier, alias)
    inputs = [verifier, alias, source / "model.safetensors", source / "config.json"]
    before = [file.read_bytes() for file in inputs]
    for file in inputs:
        with pytest.raises(DFlashError, match="is an input"):
            convert(source, verifier, file)
    assert [file.read_bytes() for file in inputs] == before


def test_output_folder_must_exist(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(DFlashError, match="does not exist"):
        convert(*pair, tmp_path / "nowhere" / "d.gguf")


def test_model_card_gives_licence_and_base_model(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (pair[0] / "README.md").write_text(
        "---\nlicense: apache-2.0\nbase_model: Some/Verifier-4B\nversion: 1.5\ntags: [a, 3]\n---\n"
    )
    keys, _ = samples.read(convert(*pair, tmp_path / "d.gguf").output)
    assert keys["general.license"] == "apache-2.0"
    assert keys["general.base_model.0.organization"] == "Some"
    assert keys["general.version"] == "1.5"
    assert keys["general.tags"] == ["a", "3"]


def test_unreadable_model_card_is_no_obstacle(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (pair[0] / "README.md").write_text("---\nlicense: [unclosed\n---\n")
    keys, _ = samples.read(convert(*pair, tmp_path / "d.gguf").output)
    assert keys["general.name"] == "Drafter"


@pytest.mark.parametrize("outtype", OUT_TYPES)
def test_libllama_loads_the_result(
    pair: tuple[Path, Path], tmp_path: Path, outtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: "1.2.3")
    scaling = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 512}
    samples.checkpoint(pair[0], samples.config(rope_scaling=scaling))
    output = convert(*pair, tmp_path / "d.gguf", outtype=outtype).output
    assert samples.read(output)[0]["dflash_local.version"] == "1.2.3"  # unknown to libllama
    loaded = _load(output)
    assert loaded["n_embd"] == samples.N_EMBD
    assert loaded["n_layer"] == samples.N_LAYER
    assert loaded["mask"] == samples.MASK


def _load(path: Path) -> dict[str, int]:
    parameters = llama_cpp.llama_model_default_params()
    parameters.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), parameters)
    assert model, "libllama refused the file"
    text = ctypes.create_string_buffer(32)
    llama_cpp.llama_model_meta_val_str(model, b"tokenizer.ggml.mask_token_id", text, len(text))
    found = {
        "n_embd": llama_cpp.llama_model_n_embd(model),
        "n_layer": llama_cpp.llama_model_n_layer(model),
        "mask": int(text.value),
    }
    llama_cpp.llama_model_free(model)
    return found


def test_numbers_a_float32_cannot_hold_are_no_numbers(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    for value in (FLOAT32_MAX * 2, 10**400, float("nan"), True):
        samples.checkpoint(pair[0], samples.config(rms_norm_eps=value))
        with pytest.raises(ModelError, match="rms_norm_eps"):
            convert(*pair, tmp_path / "d.gguf")


def test_importing_the_converter_loads_no_torch() -> None:
    code = "import sys, dflash_local.convert as c; c.convert; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

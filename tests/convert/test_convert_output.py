"""What is written: types of weights, in little memory, the same bytes each time."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import convert_samples as samples
import gguf
import llama_cpp
import numpy as np
import pytest
from dflash_local.convert import convert
from dflash_local.convert.writing import encode
from dflash_local.convert.writing.quantize import quantize

from dflash_local.errors import ModelError

QUANTISED = [name for name in encode.OUT_TYPES if name not in ("f32", "f16", "bf16")]
# Rows of 768 and 256 fit every type, rows of 96 those of 32 a block, rows of 80 F16 alone.
MIXED = {"hidden_size": 256, "intermediate_size": 80, "head_dim": 24}
# Six matrices of 100 MB in BF16.
LARGE = {"hidden_size": 1024, "intermediate_size": 49152, "head_dim": 16}


def shapes(sizes: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the sample checkpoint in other sizes."""
    n_embd, n_ff, head_dim = sizes.values()
    n_q, n_kv = samples.N_HEAD * head_dim, samples.N_HEAD_KV * head_dim
    changed = {
        "fc": (n_embd, len(samples.TARGET_LAYER_IDS) * n_embd),
        "q_proj": (n_q, n_embd),
        "k_proj": (n_kv, n_embd),
        "v_proj": (n_kv, n_embd),
        "o_proj": (n_embd, n_q),
        "q_norm": (head_dim,),
        "k_norm": (head_dim,),
        "gate_proj": (n_ff, n_embd),
        "up_proj": (n_ff, n_embd),
        "down_proj": (n_embd, n_ff),
    }
    return {name: changed.get(name.split(".")[-2], (n_embd,)) for name in samples.shapes()}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint with rows that suit each type of weights, or do not, and its verifier."""
    folder = tmp_path_factory.mktemp("mixed")
    random = np.random.default_rng(1)
    weights = {
        name: random.normal(0, 0.05, shape).astype(np.float32)
        for name, shape in shapes(MIXED).items()
    }
    source = samples.checkpoint(folder / "d", samples.config(**MIXED), weights)
    return source, samples.verifier(folder / "v.gguf", n_embd=256)


@pytest.fixture(scope="module")
def in_f32(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same checkpoint in F32."""
    return convert(*pair, tmp_path_factory.mktemp("f32"), outtype="f32").output


def by_libllama(source: Path, target: Path, file_type: int) -> dict[str, Any]:
    """The tensors of a file that libllama's own quantiser made, all matrices of one type."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.pure, params.nthread = file_type, True, 1
    files = str(source).encode(), str(target).encode()
    assert llama_cpp.llama_model_quantize(*files, ctypes.byref(params)) == 0
    return samples.read(target)[1]


@pytest.mark.parametrize("outtype", QUANTISED)
def test_quantised_tensors_are_those_of_libllamas_quantiser(
    pair: tuple[Path, Path], in_f32: Path, tmp_path: Path, outtype: str
) -> None:
    file_type = encode.OUT_TYPES[outtype].file_type
    expected = by_libllama(in_f32, tmp_path / "libllama.gguf", file_type)
    keys, ours = samples.read(convert(*pair, tmp_path / "ours.gguf", outtype=outtype).output)
    assert keys["general.file_type"] == file_type
    assert ours.keys() == expected.keys()
    for name, tensor in ours.items():
        assert tensor.tensor_type == expected[name].tensor_type, name
        np.testing.assert_array_equal(tensor.data, expected[name].data, err_msg=name)


@pytest.mark.parametrize("outtype", [name for name in encode.OUT_TYPES if name[-1] != "k"])
def test_simple_types_are_those_of_upstreams_python_bit_for_bit(
    pair: tuple[Path, Path], in_f32: Path, tmp_path: Path, outtype: str
) -> None:
    _, full = samples.read(in_f32)
    _, ours = samples.read(convert(*pair, tmp_path / "ours.gguf", outtype=outtype).output)
    for name, tensor in ours.items():
        expected = gguf.quants.quantize(full[name].data, tensor.tensor_type)
        np.testing.assert_array_equal(tensor.data, expected, err_msg=name)


def test_threads_share_rows_without_changing_them() -> None:
    values = np.random.default_rng(0).normal(0, 1, (2049, 512)).astype(np.float32)
    for kind in (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.BF16):
        expected = gguf.quants.quantize(values, kind).view(np.uint8)
        np.testing.assert_array_equal(quantize(values, kind), expected)


def test_16_bit_rounding_is_to_nearest_even_at_every_edge() -> None:
    every_f16 = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    every_f16 = every_f16[np.isfinite(every_f16)]
    up, down = (np.nextafter(every_f16, np.float32(limit)) for limit in (1e30, -1e30))
    halfway = (every_f16[:-1] + every_f16[1:]) / 2
    values = np.concatenate([every_f16, up, down, halfway])
    values = values[np.abs(values) <= encode.F16_MAX][None]
    for kind in (gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.BF16):
        expected = gguf.quants.quantize(values, kind).view(np.uint8)
        np.testing.assert_array_equal(quantize(values, kind), expected)


@pytest.mark.parametrize("outtype", encode.OUT_TYPES)
def test_norms_stay_f32_and_codebooks_at_least_f16(outtype: str) -> None:
    def kind(name: str, *shape: int) -> str:
        return encode.stored_type(name, shape, encode.out_type(outtype)).name

    wanted = outtype.upper()
    assert kind("fc.weight", 256, 512) == wanted
    assert kind("output_norm.weight", 256) == "F32"
    assert kind("blk.0.attn_q_norm.weight", 4, 256) == "F32"
    assert kind("conf_proj.bias", 256) == "F32"
    assert kind("blk.0.attn_conv_base", 2, 4, 256) == "F32"
    assert kind("d2t", 256) == "I64"
    expected = wanted if outtype in ("f32", "f16", "bf16") else "F16"
    assert kind("selector_predecessor.weight", 512, 256) == expected
    assert kind("selector_successor.weight", 512, 256) == expected
    assert kind("selector_hidden.weight", 256, 256) == wanted


def test_fallbacks_are_told_once_for_all_layers(pair: tuple[Path, Path], tmp_path: Path) -> None:
    warnings = convert(*pair, tmp_path / "d.gguf", outtype="q4_k").warnings
    assert warnings == (
        "stored as Q5_0, rows are no multiple of Q4_K's block: blk.*.attn_output.weight",
        "stored as F16, rows are no multiple of Q4_K's block: blk.*.ffn_down.weight",
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_number_anywhere_is_found(bad: float) -> None:
    values = np.ones((64, 256), np.float32)
    values[-1, -1] = bad
    for kind in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.Q4_K):
        with pytest.raises(ModelError, match="tensor fc holds NaN or infinity"):
            encode.encode("fc", values, kind)


def test_two_runs_of_a_threaded_type_give_the_same_bytes(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    first = convert(*pair, tmp_path / "1.gguf", outtype="q4_k").output.read_bytes()
    assert convert(*pair, tmp_path / "2.gguf", outtype="q4_k").output.read_bytes() == first


# A conversion in a process of its own: what it peaks at, in MB, before and after.
PEAK = """
import sys
from pathlib import Path

def peak():
    status = Path("/proc/self/status")
    if status.is_file():  # what `resource` says there, a child takes over from its parent
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

from dflash_local.convert import convert
convert(*sys.argv[1:3], sys.argv[5], outtype="q8_0")  # all is imported now
before = peak()
convert(*sys.argv[3:6], outtype="q8_0")
print(before, peak())
"""


def hollow(folder: Path) -> Path:
    """The large checkpoint in BF16, of which the disk holds the header only."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes(LARGE).items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(samples.config(**LARGE)))
    with (folder / "model.safetensors").open("wb") as file:
        file.write(samples.with_header(json.dumps(header).encode(), b""))
        file.truncate(file.tell() + end)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="asks the system as Unix has it")
def test_memory_does_not_grow_with_the_checkpoint_or_its_tensors(tmp_path: Path) -> None:
    large = hollow(tmp_path / "large")
    assert (large / "model.safetensors").stat().st_size > 600e6
    random = np.random.default_rng(1)
    weights = {name: random.normal(0, 1, shape) for name, shape in shapes(MIXED).items()}
    small = samples.checkpoint(tmp_path / "small", samples.config(**MIXED), weights)
    verifiers = [
        samples.verifier(tmp_path / f"{n}.gguf", n_embd=n)
        for n in (MIXED["hidden_size"], LARGE["hidden_size"])
    ]
    arguments = [small, verifiers[0], large, verifiers[1], tmp_path / "d.gguf"]
    command = [sys.executable, "-c", PEAK, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split())
    assert (tmp_path / "d.gguf").stat().st_size > 300e6
    assert after - before < 64, f"from {before:.0f} to {after:.0f} MB"

"""Damaged, split and missing files: the checkpoint's and the verifier's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import convert_samples as samples
import numpy as np
import pytest
from dflash_local.convert import convert
from dflash_local.convert.reading.safetensors_file import read_header
from dflash_local.convert.verifiers.verifier import read_verifier

from dflash_local.errors import ModelError

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def header(**entries: Any) -> bytes:
    """A safetensors file with 8 bytes of data and these entries."""
    return samples.with_header(json.dumps(entries).encode(), bytes(8))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated or no safetensors"),
        (b"\xff" * 64, "announce a header longer than the file"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        (samples.with_header(b"{nonsense", b""), "damaged safetensors header"),
        (samples.with_header(b"\xff\xfe{}", b""), "damaged safetensors header"),
        (samples.with_header(b"[" * 100_000, b""), "damaged safetensors header"),
        (samples.with_header(b"[]", b""), "a JSON object"),
        (samples.with_header(b'{"a": 1, "a": 2}', b""), "occurs twice"),
        (header(a=7), "damaged entry"),
        (header(a={**ENTRY, "dtype": "F4"}), "damaged entry"),
        (header(a={**ENTRY, "dtype": ["F32"]}), "damaged entry"),
        (header(a={**ENTRY, "shape": [-2]}), "damaged entry"),
        (header(a={**ENTRY, "shape": [True, 2]}), "damaged entry"),
        (header(a={**ENTRY, "data_offsets": [0]}), "damaged entry"),
        (header(a={**ENTRY, "shape": [3]}), "needs 12 bytes"),
        (header(a={**ENTRY, "shape": [2**62, 2**62]}), "truncated or damaged"),
        (header(a={**ENTRY, "data_offsets": [8, 16]}), "truncated or damaged"),
        (header(a=ENTRY, b=ENTRY), "overlaps"),
        (header(a={"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}), "gap"),
        (header(a={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}), "4 bytes after"),
    ],
)
def test_damaged_safetensors_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(ModelError, match=message):
        read_header(tmp_path / "model.safetensors")


def test_a_truncated_checkpoint_is_refused_at_any_length(tmp_path: Path) -> None:
    whole = samples.safetensors_bytes({"a": np.ones((2, 3), np.float32)})
    path = tmp_path / "model.safetensors"
    path.write_bytes(whole)
    assert read_header(path)["a"].read().tolist() == [[1.0] * 3] * 2
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError):
            read_header(path)


def test_a_checkpoint_that_shrinks_meanwhile_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    source = samples.checkpoint(tmp_path / "d")
    target = samples.verifier(tmp_path / "v.gguf")

    def cut(*_: int) -> None:
        (source / "model.safetensors").write_bytes(b"")

    with pytest.raises(ModelError, match="the file ends within tensor"):
        convert(source, target, tmp_path / "out.gguf", progress=cut)
    assert samples.names(tmp_path) == ["d", "v.gguf"]


@pytest.mark.parametrize("dtype", ["F16", "F64"])
def test_other_float_types_are_read(tmp_path: Path, dtype: str) -> None:
    values = np.array([[0.5, -3.0], [1e-3, 7.0]])
    path = tmp_path / "model.safetensors"
    path.write_bytes(samples.safetensors_bytes({"odd": np.zeros(3), "a": values}, dtype))
    read = read_header(path)["a"].read()
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, values.astype(samples.DTYPES[dtype]).astype(np.float32))


def sharded(folder: Path) -> Path:
    """The sample checkpoint in two shards with an index."""
    samples.checkpoint(folder)
    (folder / "model.safetensors").unlink()
    weights = samples.tensors()
    names = sorted(weights)
    index = {}
    for i, part in enumerate((names[:9], names[9:]), start=1):
        file = f"model-{i:05d}-of-00002.safetensors"
        (folder / file).write_bytes(
            samples.safetensors_bytes({name: weights[name] for name in part})
        )
        index.update(dict.fromkeys(part, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


def test_shards_give_the_same_file(tmp_path: Path) -> None:
    target = samples.verifier(tmp_path / "v.gguf")
    whole = convert(samples.checkpoint(tmp_path / "a" / "d"), target, tmp_path / "1.gguf")
    split = sharded(tmp_path / "b" / "d")
    parts = convert(split, target, tmp_path / "2.gguf")
    one = convert(split / "model-00002-of-00002.safetensors", target, tmp_path / "3.gguf")
    bytes_of_whole = whole.output.read_bytes()
    assert parts.output.read_bytes() == bytes_of_whole
    assert one.output.read_bytes() == bytes_of_whole


def test_an_index_cannot_point_out_of_its_folder(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "d")
    index = folder / "model.safetensors.index.json"
    samples.checkpoint(tmp_path / "other")
    for name in ("../other/model.safetensors", "gone.safetensors"):
        index.write_text(json.dumps({"weight_map": {"norm.weight": name}}))
        with pytest.raises(ModelError, match="not beside it"):
            convert(folder, samples.verifier(tmp_path / "v.gguf"), tmp_path / "d.gguf")


def test_what_is_no_checkpoint_is_refused_with_advice(tmp_path: Path) -> None:
    target = samples.verifier(tmp_path / "v.gguf")
    folder = samples.checkpoint(tmp_path / "d")

    def message(source: Path) -> str:
        with pytest.raises(ModelError) as caught:
            convert(source, target, tmp_path / "d.gguf")
        return str(caught.value)

    assert "or a Hugging Face id (owner/name)" in message(tmp_path / "z-lab" / "Some-DFlash")
    assert "is not a safetensors file" in message(folder / "config.json")
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    convert(folder, target, tmp_path / "d.gguf")  # the only one there is
    samples.checkpoint(folder)
    (folder / "model.safetensors").rename(folder / "more.safetensors")
    assert "found: more.safetensors, weights.safetensors" in message(folder)
    (folder / "config.json").unlink()
    assert "has no config.json" in message(folder / "more.safetensors")


@pytest.mark.parametrize(
    ("keep", "message"), [(0, "damaged"), (3, "damaged"), (100, "damaged"), (4000, "damaged")]
)
def test_damaged_verifiers_are_refused(tmp_path: Path, keep: int, message: str) -> None:
    path = samples.verifier(tmp_path / "v.gguf")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=message):
        read_verifier(path)


def test_what_is_no_verifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        read_verifier(tmp_path / "v.gguf")
    source = samples.checkpoint(tmp_path / "d")
    drafter = convert(source, samples.verifier(tmp_path / "v.gguf"), tmp_path / "d.gguf").output
    with pytest.raises(ModelError, match="is itself a drafter"):
        read_verifier(drafter)


@pytest.mark.parametrize("key", ["tokens", "token_type"])
def test_a_huge_array_in_a_verifier_is_refused_at_once(tmp_path: Path, key: str) -> None:
    path = samples.verifier(tmp_path / "v.gguf")
    data = bytearray(path.read_bytes())
    name = b"tokenizer.ggml." + key.encode()
    count = data.index(name) + len(name) + 8
    data[count : count + 8] = (2**60).to_bytes(8, "little")
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"damaged.*an array of 1152921504606846976 items"):
        read_verifier(path)


def test_verifier_is_read_as_it_is(tmp_path: Path) -> None:
    verifier = read_verifier(samples.verifier(tmp_path / "v.gguf", head=True))
    assert (verifier.architecture, verifier.n_embd, verifier.n_layer) == ("llama", 64, 10)
    assert (verifier.n_vocab, verifier.n_rows) == (260, 260)
    assert (verifier.has_head, verifier.mrope) == (True, False)
    assert (verifier.name, verifier.organization) == ("Tiny Verifier", "Nobody")
    assert read_verifier(samples.verifier(tmp_path / "w.gguf")).has_head is False


def test_a_split_verifier_may_be_named_by_any_part(tmp_path: Path) -> None:
    samples.verifier(tmp_path / "v.gguf", head=True, split=1)
    parts = sorted(tmp_path.glob("v-*.gguf"))
    assert [part.name for part in parts] == ["v-00001-of-00002.gguf", "v-00002-of-00002.gguf"]
    assert read_verifier(parts[1]) == read_verifier(parts[0])
    assert read_verifier(parts[0]).files == tuple(parts)
    assert read_verifier(parts[0]).has_head is True
    source = samples.checkpoint(tmp_path / "d")
    assert convert(source, parts[1], tmp_path / "d.gguf").verifier == parts[0]
    parts[0].unlink()
    with pytest.raises(ModelError, match=r"v-00001-of-00002.gguf does not exist"):
        read_verifier(parts[1])

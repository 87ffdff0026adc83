"""Damaged and hostile checkpoints: convert() writes a drafter, or raises a ModelError and nothing.

Every case goes through ``convert()``: what it writes, ``read_drafter`` takes.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fuzzing
import pytest
from dflash_local.convert import convert
from layout_files import write_checkpoint, write_verifier
from layout_samples import SAMPLES

from dflash_local.errors import ModelError
from dflash_local.files.drafter_file import read_drafter

LAYOUTS = ("a-zlab", "b-scales", "c-reduced", "d-start1", "dprime-older", "e-dspark", "f-dspark")
LAYOUTS += ("f-gemma4", "g-ling", "h-muse", "j-mimo")
# What configs may have besides: set where it is missing.
MORE_FIELDS = ("rope_scaling", "layer_types", "sliding_window", "markov_rank", "draft_vocab_size")
MORE_FIELDS += ("_name_or_path", "quantization_config", "is_causal", "architectures")


class Conversion:
    """A good checkpoint in a folder, to be damaged, and a place for what is made of it."""

    def __init__(self, root: Path, layout: str) -> None:
        sample = SAMPLES[layout]
        self.folder = write_checkpoint(root / "drafter", sample)
        self.verifier = write_verifier(root / "v.gguf", sample.target)
        self.config_path = self.folder / "config.json"
        self.weights_path = self.folder / "model.safetensors"
        self.config: dict[str, Any] = json.loads(self.config_path.read_text())
        (root / "out").mkdir()
        self.output = root / "out" / "d.gguf"

    def is_accepted(self) -> bool:
        """Whether it is converted; a refusal must leave nothing, inputs must stay as they are."""
        before = fuzzing.listing(self.folder)
        refused = False
        with fuzzing.bounded(), warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                convert(self.folder, self.verifier, self.output, outtype="f32")
            except ModelError:
                refused = True
        assert fuzzing.listing(self.folder) == before
        left = [path.name for path in self.output.parent.iterdir()]
        assert left == ([] if refused else [self.output.name])
        if not refused:
            read_drafter(self.output)
            self.output.unlink()
        return not refused


@pytest.fixture
def conversion(tmp_path: Path) -> Conversion:
    return Conversion(tmp_path, "a-zlab")


# ---- config.json ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_value_of_any_field_is_more_than_refused(tmp_path: Path, layout: str) -> None:
    conversion = Conversion(tmp_path, layout)
    texts = list(_configs(conversion.config, step=LAYOUTS.index(layout)))
    accepted = 0
    for text in texts:
        fuzzing.write(conversion.config_path, text.encode())
        accepted += conversion.is_accepted()
    assert 0 < accepted < len(texts) / 2


def _configs(config: dict[str, Any], step: int) -> Iterator[str]:
    paths = list(fuzzing.json_paths({**dict.fromkeys(MORE_FIELDS), **config}))
    for i, path in enumerate(paths):
        inside = len(path) > 1 or path[0] in config
        # A part of all pairs; every layout has another part.
        for raw in fuzzing.JSON_VALUES[(i + step) % 3 :: 3]:
            yield fuzzing.with_json(config, path, raw)
        if inside:
            yield fuzzing.with_json(config, path, None)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        b"[]",
        b"{",
        b'{"a": 1, "a": 2}',
        b'{"a": ' * 100_000,
        b'{"a": ' + b"9" * 100_000 + b"}",
        b'{"a": [' + b"[]," * 3_000_000 + b"[]]}",
        b'{"architectures": ["\\ud800"]}',
        b'{"architectures": "DFlashDraftModel"}',
        b'{"architectures": [["DFlashDraftModel"]]}',
        b"\0" * 1000,
    ],
    ids=range(13),
)
def test_what_is_no_config_is_refused(conversion: Conversion, text: bytes) -> None:
    fuzzing.write(conversion.config_path, text)
    assert not conversion.is_accepted()


# ---- safetensors ---------------------------------------------------------------------------


def test_weights_cut_off_anywhere_are_refused(conversion: Conversion) -> None:
    data = conversion.weights_path.read_bytes()
    for end in [*range(40), *range(40, len(data), len(data) // 150), len(data) - 1]:
        fuzzing.write(conversion.weights_path, data[:end])
        assert not conversion.is_accepted()
    fuzzing.write(conversion.weights_path, data + b"\0")
    assert not conversion.is_accepted()


@pytest.mark.slow
def test_flipped_bytes_of_a_header_are_refused_or_harmless(conversion: Conversion) -> None:
    data = conversion.weights_path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    for damaged in fuzzing.flips(data, 400, end, seed=2):
        fuzzing.write(conversion.weights_path, damaged)
        conversion.is_accepted()


def test_no_value_in_a_header_is_more_than_refused(conversion: Conversion) -> None:
    data = conversion.weights_path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    names = [name for name in header if name != "__metadata__"][:3]
    fields = [("__metadata__",), *((name,) for name in names)]
    fields += [(name, field) for name in names for field in ("dtype", "shape", "data_offsets")]
    for path in fields:
        for raw in (*fuzzing.JSON_VALUES, *HOSTILE_ENTRIES, None):
            if raw is None and path[0] not in header:
                continue
            changed = fuzzing.with_json(header, path, raw).encode()
            fuzzing.write(conversion.weights_path, _framed(changed, data[end:]))
            assert not conversion.is_accepted() or path[0] == "__metadata__", (path, raw)


HOSTILE_ENTRIES = (
    *('"F32"', '"I64"', '"F8_E4M3"', '"BOOL"', "[4611686018427387904, 4]", "[-1, -1]"),
    *("[0, 18446744073709551615]", "[0, 1e3]", "[64, 0]", "[99999999999999999999]", "[0,0]"),
    '{"dtype":"F32","shape":[],"data_offsets":[0,4]}',
    '{"dtype":"F32","shape":[2147483648,2147483648],"data_offsets":[0,0]}',
    '{"dtype":["F32"],"shape":{"0":1},"data_offsets":"ab"}',
)


def _framed(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**31, 9_000_000])
def test_a_header_of_any_announced_length_is_refused(conversion: Conversion, length: int) -> None:
    rest = b"{" + b" " * 9_000_000
    fuzzing.write(conversion.weights_path, length.to_bytes(8, "little") + rest)
    assert not conversion.is_accepted()


def test_tensors_that_share_their_data_are_refused(conversion: Conversion) -> None:
    data = conversion.weights_path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    up, gate = (f"layers.0.mlp.{name}_proj.weight" for name in ("up", "gate"))
    header[up]["data_offsets"] = header[gate]["data_offsets"]
    fuzzing.write(conversion.weights_path, _framed(json.dumps(header).encode(), data[end:]))
    assert not conversion.is_accepted()


# ---- files ---------------------------------------------------------------------------------


def _fifo(path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes here")
    os.mkfifo(path)


@pytest.mark.parametrize(
    "raw",
    [
        *("{}", "[]", "null", '{"a": 1}', '{"a": "../v.gguf"}', '{"a": "/etc/hostname"}'),
        *('{"a": "."}', '{"a": ""}', '{"a": "a\\u0000b"}', '{"a": "\\ud800"}', '{"a": "out"}'),
        *('{"a": ["model.safetensors"]}', '{"a": "config.json"}', '{"a": "fifo"}'),
        json.dumps({"a": "x" * 5000}),
        json.dumps({str(i): f"{i}.safetensors" for i in range(20_000)}),
    ],
    ids=range(16),
)
def test_an_index_of_other_files_is_refused(conversion: Conversion, raw: str) -> None:
    conversion.weights_path.rename(conversion.folder / "other.safetensors")
    _fifo(conversion.folder / "fifo")  # reading it would wait for ever
    index = conversion.folder / "model.safetensors.index.json"
    fuzzing.write(index, f'{{"weight_map": {raw}}}'.encode())
    assert not conversion.is_accepted()


def _folder(path: Path) -> None:
    path.mkdir()


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _nowhere(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


@pytest.mark.parametrize("make", [_folder, _loop, _nowhere, _fifo, Path.touch])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_what_is_no_file_in_place_of_one_is_refused(
    conversion: Conversion, name: str, make: Callable[[Path], object]
) -> None:
    (conversion.folder / name).unlink()
    make(conversion.folder / name)
    assert not conversion.is_accepted()


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "\ud800", "", "/" * 300])
def test_names_that_no_checkpoint_can_have_are_refused(conversion: Conversion, name: str) -> None:
    for arguments in ((f"./{name}x", conversion.verifier), (conversion.folder, f"./{name}x")):
        with pytest.raises(ModelError):
            convert(*arguments, conversion.output)

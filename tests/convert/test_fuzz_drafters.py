"""Drafters that read_drafter takes never end the process; what libllama dies of is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fuzzing
import numpy as np
import pytest
from conftest import MODELS
from fuzzing import (
    BOOL,
    F32,
    I32,
    KINDS,
    STRING,
    TOKENS,
    U32,
    File,
    array,
    drafter,
    is_accepted,
    scalar,
    text,
)
from waiting import PATIENCE

CHILD = Path(__file__).parents[1] / "support" / "fuzz_child.py"

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def exit_codes(files: list[Path]) -> list[int]:
    """What became of drafting with each file, see fuzz_child.py."""
    command = [sys.executable, str(CHILD), str(MODELS / "verifier-f32.gguf"), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return [int(line) for line in done.stdout.splitlines()]


# ---- what libllama would die of ------------------------------------------------------------

WINDOW = b"dflash.attention.sliding_window"
FATAL = {
    "a window no layer uses": {WINDOW: scalar(U32, 16), WINDOW + b"_pattern": array(BOOL, [0])},
    "a window of 2^31": {WINDOW: scalar(U32, 2**31), WINDOW + b"_pattern": array(BOOL, [1])},
    "sections that add up to 0": {
        b"dflash.rope.dimension_sections": array(I32, [1, -1, 0, 0]),
    },
    "sections that overflow to 0": {b"dflash.rope.dimension_sections": array(I32, [2**30] * 4)},
    "sections beyond the head": {b"dflash.rope.dimension_sections": array(I32, [100, 0, 0, 0])},
    "only the last section": {b"dflash.rope.dimension_sections": array(I32, [0, 0, 0, 1])},
    "one number for all sections": {b"dflash.rope.dimension_sections": scalar(I32, -1)},
    "data at odd places": {b"general.alignment": scalar(U32, 1), b"x": text(b"")},
    "no vocabulary": {b"tokenizer.ggml.model": text(b"no_vocab")},
    "two tokens alike": {TOKENS: array(STRING, [b"a"] * 400)},
    "numbers for tokens": {TOKENS: array(U32, range(400))},
    "experts": {b"dflash.expert_count": scalar(U32, 8)},
    "a rope scaling nobody knows": {b"dflash.rope.scaling.type": text(b"\xff")},
    "NaN": {b"dflash.rope.freq_base": scalar(F32, float("nan"))},
}


@pytest.mark.parametrize("name", FATAL)
def test_keys_that_end_the_process_are_refused(tmp_path: Path, name: str) -> None:
    changed = drafter()
    changed.keys |= FATAL[name]
    assert not is_accepted(tmp_path / "d.gguf", changed.to_bytes())


def test_a_top_k_whose_square_overflows_is_refused(tmp_path: Path) -> None:
    changed = drafter("dflash2-b8").with_key(b"dflash.selector_top_k", scalar(U32, 2**32 - 1))
    assert not is_accepted(tmp_path / "d.gguf", changed.to_bytes())


def test_a_flag_that_is_none_is_refused(tmp_path: Path) -> None:
    for value in (text(b"true"), scalar(U32, 1), array(BOOL, [True])):
        changed = drafter("dspark-b8").with_key(b"dflash.sample_from_anchor", value)
        assert not is_accepted(tmp_path / "d.gguf", changed.to_bytes())


@pytest.mark.parametrize("kind", [1, 2, 8, 24, 27, 28, 30])
def test_norms_are_f32(tmp_path: Path, kind: int) -> None:
    good = drafter()
    tensor = fuzzing.retyped(good.tensors[b"output_norm.weight"], kind)
    assert not is_accepted(tmp_path / "d.gguf", good.with_tensor(tensor.name, tensor).to_bytes())


@pytest.mark.parametrize("kind", [9, 24, 25, 26, 27, 28])
def test_matrices_are_floats_or_blocks_with_a_product(tmp_path: Path, kind: int) -> None:
    good = drafter()
    tensor = fuzzing.retyped(good.tensors[b"fc.weight"], kind)
    assert not is_accepted(tmp_path / "d.gguf", good.with_tensor(tensor.name, tensor).to_bytes())


def test_optional_tensors_have_their_shape_and_type(tmp_path: Path) -> None:
    odd = fuzzing.Tensor(b"rope_freqs.weight", (3,), 0, bytes(12))
    assert not is_accepted(tmp_path / "d.gguf", drafter().with_tensor(odd.name, odd).to_bytes())
    odd = fuzzing.Tensor(b"blk.0.attn_sinks.weight", (4,), 1, bytes(8))
    assert not is_accepted(tmp_path / "d.gguf", drafter().with_tensor(odd.name, odd).to_bytes())


def test_graphs_that_libllama_has_no_room_for_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.gguf"
    widths = {
        width: is_accepted(
            path, drafter("dspark-b8").with_key(b"dflash.block_size", scalar(U32, width)).to_bytes()
        )
        for width in (16, 32, 96, 256)
    }
    assert widths == {16: True, 32: True, 96: False, 256: False}
    assert [is_accepted(path, _with_kernel(n).to_bytes()) for n in (3, 16, 32)] == [
        True,
        True,
        False,
    ]


def _with_kernel(n: int) -> File:
    file = drafter("dflash2-b8").with_key(b"dflash.conv_kernel_size", scalar(U32, n))
    for tensor in list(file.tensors.values()):
        if tensor.name.endswith(b"_conv_base"):
            changed = fuzzing.retyped(tensor, tensor.type, (tensor.shape[0], n, 2))
        elif tensor.name.endswith(b"_conv_proj.weight"):
            n_groups = tensor.shape[1] // 6  # of a kernel of 3 taps, before and after
            changed = fuzzing.retyped(tensor, tensor.type, (tensor.shape[0], 2 * n * n_groups))
        else:
            continue
        file.tensors[tensor.name] = changed
    return file


# ---- and what it is given ------------------------------------------------------------------


@pytest.mark.slow
@needs_fork
@pytest.mark.parametrize("name", KINDS)
def test_no_accepted_file_ends_the_process(tmp_path: Path, name: str) -> None:
    files = []
    for i, data in enumerate(_candidates(name)):
        path = tmp_path / f"{i}.gguf"
        if is_accepted(path, data):
            files.append(path)
    codes = exit_codes(files)
    assert len(codes) == len(files) > 30
    assert {0, 1} >= set(codes), [(str(f), c) for f, c in zip(files, codes, strict=True) if c > 1]
    assert codes.count(0) > len(codes) / 3


def _candidates(name: str) -> Iterator[bytes]:
    good = drafter(name)
    random = np.random.default_rng(7)
    values = list(fuzzing.VALUES.values())
    for key in good.keys:  # some of all pairs; hours of all of them found no more
        for value in random.choice(len(values), 5, replace=False):
            yield good.with_key(key, values[value]).to_bytes()
    for key, tensor in good.tensors.items():
        kind = int(random.choice((0, 1, 2, 8, 30, 39)))
        if tensor.shape[0] % 32 == 0:
            yield good.with_tensor(key, fuzzing.retyped(tensor, kind)).to_bytes()
        yield good.with_tensor(key, replace(tensor, data=b"\xff" * len(tensor.data))).to_bytes()


@needs_fork
def test_huge_counts_take_little_memory(tmp_path: Path) -> None:
    files = []
    for i, value in enumerate(fuzzing.VALUES.values()):
        files.append(tmp_path / f"{i}.gguf")
        files[-1].write_bytes(drafter().with_key(TOKENS, value).to_bytes())
    assert set(exit_codes(files)) == {1}

"""Drafter files that are wrong: one error that lists everything, and never a dead process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pairings
import pytest
from conftest import MakeLlama, check_drafts
from exactness import ONE_THREAD
from gguf_contents import TOKENS, Contents
from pairings import PROSE, STRING, Edit, set_key

from dflash_local import DFlashError, Llama, ModelError
from dflash_local.files.drafter_file import read_drafter

# pytest finds fixtures by the names of a module.
edited = pairings.edited


MASK = "tokenizer.ggml.mask_token_id"


def error_of(path: Path | str) -> str:
    with pytest.raises(ModelError) as caught:
        read_drafter(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


# ---- the files as they are -----------------------------------------------------------------


def test_every_tiny_drafter_is_described_as_it_is(tiny_drafters: dict[str, Path]) -> None:
    infos = {name: read_drafter(path) for name, path in tiny_drafters.items()}
    found = {name: (i.kind, i.block_size, i.max_width) for name, i in infos.items()}
    assert found == {
        "dflash-b4": ("dflash", 4, 3),
        "dflash-b8": ("dflash", 8, 7),
        "dflash-b8-d2t": ("dflash", 8, 7),
        "dflash2-b8": ("dflash2", 8, 7),
        "dspark-b7-anchor": ("dspark", 7, 7),
        "dspark-b8": ("dspark", 8, 7),
    }
    assert infos["dflash-b8"].target_layers == (1, 2, 3)
    assert infos["dflash-b4"].target_layers == (1, 3)
    assert all(i.mask_token == 3 and i.n_embd == 64 and not i.causal for i in infos.values())
    assert infos["dspark-b8"].has_confidence
    assert not infos["dflash-b8"].has_confidence


@pytest.mark.parametrize("name", ["dflash-b8", "dflash-b8-d2t", "dflash2-b8", "dspark-b8"])
def test_a_rewritten_drafter_drafts_the_same(
    edited: Callable[..., Path],
    make_llama: MakeLlama,
    tiny_verifier: Path,
    tiny_drafters: dict[str, Path],
    name: str,
) -> None:
    """So whatever the edited files below are refused for is in the edit."""
    counts = []
    for path in (tiny_drafters[name], edited(lambda _: None, name)):
        llm = make_llama(Llama, tiny_verifier, drafter=path)
        llm(PROSE, max_tokens=40, temperature=0)
        check_drafts(llm)
        counts.append((llm.stats.last.n_drafted, llm.stats.last.n_accepted))
    assert counts[0] == counts[1]


# ---- files that are no drafter -------------------------------------------------------------


def test_a_missing_file_and_a_folder(tmp_path: Path, tiny_verifier: Path) -> None:
    for path in (tmp_path / "nowhere.gguf", tmp_path):
        assert "does not exist" in error_of(path)
        with pytest.raises(ModelError, match="does not exist"):
            Llama(tiny_verifier, drafter=path)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"PK\x03\x04" + b"x" * 500, b"\0" * 4096])
def test_what_is_no_gguf(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.gguf"
    path.write_bytes(content)
    assert "no GGUF" in error_of(path)


def test_another_architecture(tiny_verifier: Path) -> None:
    message = error_of(tiny_verifier)
    assert "'llama'" in message
    assert "expected 'dflash'" in message
    assert "dflash-convert" in message


def test_the_verifier_is_not_loaded_for_a_bad_drafter(tmp_path: Path, tiny_verifier: Path) -> None:
    with pytest.raises(ModelError, match=r"drafter\.gguf"):
        Llama(tmp_path / "no-verifier.gguf", drafter=tmp_path / "drafter.gguf")
    with pytest.raises(ValueError, match="does not exist"):
        Llama(tmp_path / "no-verifier.gguf")
    assert tiny_verifier.is_file()


def test_a_truncated_drafter_is_an_error_wherever_it_ends(
    tmp_path: Path, tiny_verifier: Path, tiny_drafters: dict[str, Path]
) -> None:
    whole = tiny_drafters["dflash-b8"].read_bytes()
    path = tmp_path / "cut.gguf"
    for end in [*range(8, len(whole), len(whole) // 40), len(whole) - 1]:
        path.write_bytes(whole[:end])
        with pytest.raises(ModelError, match=r"cut\.gguf"):
            Llama(tiny_verifier, drafter=path, **ONE_THREAD)


def test_flipped_bytes_of_the_header_never_end_in_another_exception(
    tmp_path: Path, tiny_drafters: dict[str, Path]
) -> None:
    whole = tiny_drafters["dflash-b8"].read_bytes()
    path = tmp_path / "flipped.gguf"
    rng = np.random.default_rng(3)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for at in rng.integers(4, 3000, size=2):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_drafter(path)
        except ModelError:
            refused += 1
    assert 10 < refused < 300


# ---- drafters with something wrong ---------------------------------------------------------


def drop_key(key: str) -> Edit:
    return lambda c: c.keys.pop(key)


UINT32 = gguf.GGUFValueType.UINT32
FLOAT32 = gguf.GGUFValueType.FLOAT32

#: edit -> what the message has to say
WRONG_KEYS: dict[str, tuple[Edit, list[str]]] = {
    "no block size": (drop_key("dflash.block_size"), ["dflash.block_size", "None", "2 to 256"]),
    "block of one": (set_key("dflash.block_size", 1), ["block_size: found 1", "2 to 256"]),
    "huge block": (set_key("dflash.block_size", 4096), ["block_size: found 4096", "2 to 256"]),
    "block size as text": (set_key("dflash.block_size", "8", STRING), ["found '8'"]),
    "no layers": (set_key("dflash.block_count", 0), ["dflash.block_count: found 0", "1 to 512"]),
    "many layers": (set_key("dflash.block_count", 9999), ["dflash.block_count: found 9999"]),
    "no hidden size": (
        drop_key("dflash.embedding_length"),
        ["dflash.embedding_length: found None"],
    ),
    "no feed forward": (
        drop_key("dflash.feed_forward_length"),
        ["feed_forward_length: found None"],
    ),
    "no heads": (set_key("dflash.attention.head_count", 0), ["head_count: found 0"]),
    "odd K/V heads": (set_key("dflash.attention.head_count_kv", 3), ["found 3", "divisor of 4"]),
    "uneven heads": (
        set_key("dflash.attention.value_length", 8),
        ["key_length and value_length", "and 8", "the same even number"],
    ),
    "no mask token": (drop_key(MASK), [f"{MASK}: found None", "below 384", "dflash-convert"]),
    "mask outside": (set_key(MASK, 384), [f"{MASK}: found 384", "below 384"]),
    "no tokens": (drop_key(TOKENS), [f"{TOKENS}: missing", "--verifier"]),
    "no target layers": (drop_key("dflash.target_layers"), ["dflash.target_layers: found None"]),
    "negative layer": (
        lambda c: c.set("dflash.target_layers", [-1, 2, 3]),
        ["dflash.target_layers: found [-1, 2, 3]", "from 0 on"],
    ),
    # Each of these ends the process in libllama, or keeps it busy for ever.
    "no rotation": (
        set_key("dflash.rope.dimension_count", 0, UINT32),
        ["dflash.rope.dimension_count: found 0", "from 2 to 16"],
    ),
    "odd rotation": (set_key("dflash.rope.dimension_count", 15, UINT32), ["found 15", "even"]),
    "wide rotation": (set_key("dflash.rope.dimension_count", 32, UINT32), ["found 32", "to 16"]),
    "rope scaling": (
        set_key("dflash.rope.scaling.type", "su", STRING),
        ["dflash.rope.scaling.type: found 'su'", "none, linear, yarn, longrope"],
    ),
    "negative epsilon": (
        set_key("dflash.attention.layer_norm_rms_epsilon", -1.0, FLOAT32),
        ["layer_norm_rms_epsilon: found -1.0", "from 0 to 1"],
    ),
    "no epsilon": (
        drop_key("dflash.attention.layer_norm_rms_epsilon"),
        ["layer_norm_rms_epsilon: found None"],
    ),
    "experts": (set_key("dflash.expert_count", 4, UINT32), ["dflash.expert_count: found 4"]),
    "used experts": (
        set_key("dflash.expert_used_count", 2, UINT32),
        ["expert_used_count: found 2"],
    ),
    "DeepSeek-V4": (set_key("dflash.hyper_connection.count", 4, UINT32), ["DeepSeek-V4"]),
}


@pytest.mark.parametrize("name", WRONG_KEYS)
def test_a_wrong_key_is_named_with_what_was_found_and_expected(
    edited: Callable[..., Path], name: str
) -> None:
    edit, parts = WRONG_KEYS[name]

    def signed(c: Contents) -> None:
        c.types["dflash.target_layers"] = [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.INT32]
        edit(c)

    message = error_of(edited(signed))
    for part in parts:
        assert part in message


def test_all_wrong_keys_are_in_one_error(edited: Callable[..., Path]) -> None:
    def edit(c: Contents) -> None:
        c.set("dflash.block_size", 1)
        c.set("dflash.attention.head_count_kv", 3)
        c.set(MASK, 999)
        c.keys.pop("dflash.target_layers")

    message = error_of(edited(edit))
    assert message.count("\n  - ") == 4
    for part in ("block_size", "head_count_kv", MASK, "target_layers"):
        assert part in message


def test_all_wrong_tensors_are_in_one_error(edited: Callable[..., Path]) -> None:
    def edit(c: Contents) -> None:
        c.tensors.pop("output_norm.weight")
        c.set_tensor("blk.0.attn_q.weight", np.zeros((32, 64), np.float32))
        c.set_tensor("fc.weight", np.zeros((64, 128), np.float32))

    message = error_of(edited(edit))
    assert message.count("\n  - ") == 3
    assert "output_norm.weight: missing, expected shape [64]" in message
    assert "blk.0.attn_q.weight: found shape [64, 32], expected [64, 64]" in message
    assert "fc.weight: found shape [128, 64], expected [192, 64]" in message


def d2t_with(**changes: int) -> Edit:
    def edit(c: Contents) -> None:
        ids = c.tensors["d2t"][0].astype(np.int64)
        for at, value in changes.items():
            ids[int(at[1:])] = value
        c.set_tensor("d2t", ids)

    return edit


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        (d2t_with(_5=384), "from 0 to 383"),
        (d2t_with(_5=-1), "from 0 to 383"),
        (d2t_with(_0=7, _1=7), "every token once"),
        (lambda c: c.set_tensor("d2t", c.tensors["d2t"][0].astype(np.int32)), "type I64"),
        (lambda c: c.tensors.pop("output.weight"), "output.weight: missing"),
    ],
    ids=["too large", "negative", "twice", "another type", "no output"],
)
def test_a_reduced_vocabulary_that_would_be_scattered_wrongly(
    edited: Callable[..., Path], edit: Edit, part: str
) -> None:
    assert part in error_of(edited(edit, "dflash-b8-d2t"))


# What the header cannot tell is left to libllama, which has to say no and live.
@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("dflash-b8", lambda c: c.set_tensor("extra.weight", np.zeros((4, 4), np.float32))),
        ("dflash-b8", lambda c: c.set("tokenizer.ggml.model", "no-such-tokenizer")),
        ("dflash-b8", lambda c: c.set("tokenizer.ggml.model", "none")),
        ("dflash-b8", lambda c: c.set("dflash.attention.sliding_window", 8, UINT32)),
        ("dflash-b8-d2t", lambda c: c.set_tensor("d2t", c.tensors["d2t"][0][:-3].astype(np.int64))),
        ("dspark-b8", lambda c: c.set_tensor("markov_w1.weight", np.zeros((8, 8), np.float32))),
        ("dspark-b8", lambda c: c.tensors.pop("markov_w2.weight")),
        (
            "dflash2-b8",
            lambda c: c.set_tensor("selector_hidden.weight", np.zeros((3, 64), np.float32)),
        ),
    ],
    ids=[
        "extra tensor",
        "tokenizer",
        "no tokenizer",
        "window without pattern",
        "short d2t",
        "markov shape",
        "no markov_w2",
        "selector shape",
    ],
)
def test_what_libllama_refuses_is_an_error_that_names_the_file(
    edited: Callable[..., Path], tiny_verifier: Path, name: str, edit: Edit
) -> None:
    path = edited(edit, name)
    with pytest.raises(DFlashError, match=path.stem):
        Llama(tiny_verifier, drafter=path, **ONE_THREAD)

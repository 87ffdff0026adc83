"""Files and pairs that do not fit: one error that lists everything, and never a dead process."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest
from conftest import F32, MODELS, MakeLlama, check_drafts
from exactness import ONE_THREAD
from gguf_contents import TOKENS, Contents
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding
from waiting import PATIENCE

from dflash_local import DFlashError, Llama, ModelError
from dflash_local.files import pairing
from dflash_local.files.drafter_file import DrafterInfo, read_drafter
from dflash_local.files.gguf_header import GGUFHeader

PROSE = "the brown"
MASK = "tokenizer.ggml.mask_token_id"

Edit = Callable[[Contents], object]


@pytest.fixture
def edited(tmp_path: Path, tiny_drafters: dict[str, Path]) -> Callable[..., Path]:
    """edited(edit, name="dflash-b8"): the path of a changed copy of a tiny drafter."""
    paths = (tmp_path / f"edited-{i}.gguf" for i in range(1000))

    def make(edit: Edit, name: str = "dflash-b8") -> Path:
        contents = Contents(tiny_drafters[name])
        edit(contents)
        return contents.write(next(paths))

    return make


@pytest.fixture
def info(tiny_drafters: dict[str, Path]) -> DrafterInfo:
    return read_drafter(tiny_drafters["dflash-b8"])


@pytest.fixture
def verifier(tiny_verifier: Path) -> pairing.VerifierInfo:
    header = GGUFHeader(tiny_verifier)
    return pairing.VerifierInfo(
        tiny_verifier,
        "llama",
        header.get("llama.embedding_length"),
        header.get("llama.block_count"),
        header.get(TOKENS),
        header.get("tokenizer.chat_template"),
    )


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


def set_key(key: str, value: Any, kind: gguf.GGUFValueType | None = None) -> Edit:
    return lambda c: c.set(key, value, kind)


STRING = gguf.GGUFValueType.STRING
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


# ---- pairs ---------------------------------------------------------------------------------


def test_the_tiny_pair_fits(info: DrafterInfo, verifier: pairing.VerifierInfo) -> None:
    assert pairing.check_pair(info, verifier) == []


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"architecture": "bert"}, ["no layer inputs", "'bert'", "llama", "drafter=None"]),
        ({"n_embd": 128}, ["hidden size", "drafter has 64", "verifier 128"]),
        ({"n_layer": 3}, ["layers [3]", "3 layers", "from 0 up to 2"]),
        ({"architecture": "gemma3", "n_layer": 3}, ["layers [3]", "from 1 up to 2"]),
        ({"n_layer": 2}, ["layers [2, 3]", "up to 1"]),
        ({"tokens": [b"a"]}, ["vocabulary", "drafter has 384 tokens", "verifier 1"]),
        ({"tokens": []}, ["vocabulary", "verifier 0"]),
    ],
    ids=[
        "architecture",
        "hidden size",
        "layer",
        "callback",
        "layers",
        "vocabulary size",
        "no vocabulary",
    ],
)
def test_a_mismatch_says_what_both_have(
    info: DrafterInfo, verifier: pairing.VerifierInfo, change: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(ModelError) as caught:
        pairing.check_pair(info, replace(verifier, **change))
    message = str(caught.value)
    assert message.count("\n  - ") == 1
    for part in (*parts, str(info.path), str(verifier.path)):
        assert part in message


def test_tokens_are_compared_one_by_one(info: DrafterInfo, verifier: pairing.VerifierInfo) -> None:
    tokens = list(verifier.tokens)
    tokens[270], tokens[300] = b"caf\xc3\xa9", b"\xff"
    with pytest.raises(ModelError) as caught:
        pairing.check_pair(info, replace(verifier, tokens=tokens))
    message = str(caught.value)
    assert "2 of 384 tokens differ, the first is token 270" in message
    assert "'café' in the verifier" in message
    tokens[270] = verifier.tokens[270]
    with pytest.raises(ModelError, match=r"1 of 384 tokens differ.*300.*xff' in the verifier"):
        pairing.check_pair(info, replace(verifier, tokens=tokens))


NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

#: A token as the drafter's file has it, and as the verifier's.
HARMLESS: dict[str, tuple[tuple[bytes, int], tuple[bytes, int]]] = {
    "padding of a converter": ((b"[PAD300]", UNUSED), (b"<|reserved_special_token_5|>", CONTROL)),
    "padding typed as text": ((b"[PAD300]", NORMAL), (b"<unused12>", USER_DEFINED)),
    "extra ids": ((b"<extra_id_1>", NORMAL), (b"<|extra_0|>", NORMAL)),
    "numbered pads": ((b"<pad_3>", USER_DEFINED), (b"<|vision_pad|>", CONTROL)),
    "reserved": ((b"<|reserved_200012|>", NORMAL), (b"<reserved_106>", NORMAL)),
    "special": ((b"<SPECIAL_20>", NORMAL), (b"[UNUSED_TOKEN_145]", NORMAL)),
    "dummies": ((b"<|dummy_0|>", NORMAL), (b"<|placeholder1|>", USER_DEFINED)),
    "control tokens of chats": ((b"<|im_end|>", CONTROL), (b"<end_of_turn>", CONTROL)),
    "a use found for a reserved one": ((b"<|reserved_5|>", USER_DEFINED), (b"<|eom|>", CONTROL)),
    "unknown": ((b"<unk>", UNKNOWN), (b"[UNK]", UNKNOWN)),
    "nameless": ((b"", UNUSED), (b"<pad>", CONTROL)),
}

#: The same, where one at least is text.
TEXT: dict[str, tuple[tuple[bytes, int], tuple[bytes, int]]] = {
    "two words": ((b"pad", NORMAL), (b"zebra", NORMAL)),
    "a word for a control token": ((b"<|im_end|>", CONTROL), (b"zebra", NORMAL)),
    "a word for padding": ((b"[PAD300]", UNUSED), (b"zebra", NORMAL)),
    "words in brackets": ((b"<special>", NORMAL), (b"<table>", USER_DEFINED)),
    "whitespace that a user added": ((b"\n\n", USER_DEFINED), (b"[PAD300]", UNUSED)),
    "bytes": ((b"<0x0A>", BYTE), (b"<0x0B>", BYTE)),
    "a word that begins like padding": ((b"[padding:", NORMAL), (b"[PAD1]", UNUSED)),
    "a word about padding": ((b"<padding-left>", NORMAL), (b"[PAD1]", UNUSED)),
}


def with_token(
    info: Any, token: int, text: bytes, kind: int, *, typed: bool = True
) -> DrafterInfo | pairing.VerifierInfo:
    texts, kinds = list(info.tokens), [NORMAL] * len(info.tokens)
    texts[token], kinds[token] = text, kind
    return replace(info, tokens=texts, token_types=kinds if typed else ())


@pytest.mark.parametrize("name", HARMLESS)
def test_tokens_that_are_no_text_are_warned_of(
    info: DrafterInfo, verifier: pairing.VerifierInfo, name: str
) -> None:
    for one, other in (HARMLESS[name], HARMLESS[name][::-1]):
        pair = with_token(info, 300, *one), with_token(verifier, 300, *other)
        (warning,) = pairing.check_pair(*pair)
        assert warning.startswith("1 of 384 tokens have other names in the drafter")
        named = [repr(text.decode()) for text, _ in (one, other)]
        assert f"token 300: {named[0]} in the drafter, {named[1]} in the verifier" in warning


@pytest.mark.parametrize("name", TEXT)
def test_tokens_of_which_one_is_text_are_refused(
    info: DrafterInfo, verifier: pairing.VerifierInfo, name: str
) -> None:
    for one, other in (TEXT[name], TEXT[name][::-1]):
        pair = with_token(info, 300, *one), with_token(verifier, 300, *other)
        with pytest.raises(ModelError, match="1 of 384 tokens differ, the first is token 300"):
            pairing.check_pair(*pair)
        assert pairing.pair_warnings(*pair) == []


def test_without_types_names_alone_tell_padding(
    info: DrafterInfo, verifier: pairing.VerifierInfo
) -> None:
    drafter = with_token(info, 300, b"[PAD300]", 0, typed=False)
    assert pairing.check_pair(drafter, with_token(verifier, 300, b"<unused0>", 0, typed=False))
    with pytest.raises(ModelError, match="token 300"):
        pairing.check_pair(drafter, with_token(verifier, 300, b"<|im_end|>", 0, typed=False))


def test_the_mask_token_may_have_any_name(
    info: DrafterInfo, verifier: pairing.VerifierInfo
) -> None:
    """Trainers name it in their copy of the tokenizer."""
    named = with_token(info, info.mask_token, b"MASK", NORMAL)
    assert pairing.check_pair(named, verifier) == []


def test_where_text_differs_its_first_token_is_named_and_the_rest_is_no_warning(
    info: DrafterInfo, verifier: pairing.VerifierInfo
) -> None:
    drafter = with_token(info, 290, b"[PAD290]", UNUSED)
    other = with_token(with_token(verifier, 290, b"<|x|>", CONTROL), 300, b"zebra", NORMAL)
    other = replace(other, token_types=[CONTROL if i == 290 else NORMAL for i in range(384)])
    with pytest.raises(ModelError, match="1 of 384 tokens differ, the first is token 300"):
        pairing.check_pair(drafter, other)
    assert pairing.pair_warnings(drafter, other) == []


def test_padding_at_the_end_is_not_left_out(
    info: DrafterInfo, verifier: pairing.VerifierInfo
) -> None:
    """libllama cuts the verifier's logits by the drafter's number of tokens."""
    padded = replace(
        verifier,
        tokens=[*verifier.tokens, b"[PAD384]"],
        token_types=[NORMAL] * 384 + [UNUSED],
    )
    with pytest.raises(ModelError, match="drafter has 384 tokens, the verifier 385"):
        pairing.check_pair(info, padded)


def test_a_drafter_whose_padding_has_other_names_drafts_the_same(
    edited: Callable[..., Path],
    make_llama: MakeLlama,
    tiny_verifier: Path,
    tiny_drafters: dict[str, Path],
) -> None:
    kinds = "tokenizer.ggml.token_type"

    def rename(c: Contents, text: str, kind: int) -> None:
        c.keys[TOKENS][2], c.keys[kinds][2] = text, kind  # <|im_end|>, in each answer

    renamed = edited(lambda c: rename(c, "<end_of_turn>", CONTROL))
    with pytest.warns(RuntimeWarning, match=r"1 of 384 tokens have other names.*token 2:"):
        llm = make_llama(Llama, tiny_verifier, drafter=renamed)
    llm(PROSE, max_tokens=40, temperature=0)
    plain = make_llama(Llama, tiny_verifier, drafter=tiny_drafters["dflash-b8"])
    plain(PROSE, max_tokens=40, temperature=0)
    assert llm.stats.last.n_accepted == plain.stats.last.n_accepted > 0
    wrong = edited(lambda c: rename(c, "<end_of_turn>", NORMAL))
    with pytest.raises(ModelError, match="token 2: '<end_of_turn>' in the drafter"):
        Llama(tiny_verifier, drafter=wrong, n_threads=1)


def test_every_mismatch_is_in_one_error(info: DrafterInfo, verifier: pairing.VerifierInfo) -> None:
    wrong = replace(
        verifier, architecture="gemma3", n_embd=32, n_layer=2, tokens=verifier.tokens[:100]
    )
    with pytest.raises(ModelError) as caught:
        pairing.check_pair(info, wrong)
    message = str(caught.value)
    assert message.count("\n  - ") == 3
    for part in ("hidden size", "target layers", "vocabulary"):
        assert part in message


@pytest.mark.parametrize(("architecture", "fits"), [("llama", False), ("mimo2", True)])
def test_the_output_of_the_last_layer_is_there_in_few_architectures(
    info: DrafterInfo, verifier: pairing.VerifierInfo, architecture: str, fits: bool
) -> None:
    last = replace(info, target_layers=(1, 2, verifier.n_layer))
    try:
        pairing.check_pair(last, replace(verifier, architecture=architecture))
    except ModelError:
        assert not fits
    else:
        assert fits


def test_a_pair_of_files_that_does_not_fit(
    edited: Callable[..., Path], make_llama: MakeLlama, tiny_verifier: Path, tiny_drafters: Any
) -> None:
    def edit(c: Contents) -> None:
        c.set("dflash.target_layers", [1, 2, 4])
        c.keys[TOKENS][271] = "zebra"

    path = edited(edit)
    with pytest.raises(ModelError) as caught:
        Llama(tiny_verifier, drafter=path, **ONE_THREAD)
    message = str(caught.value)
    assert "layers [4]" in message
    assert "1 of 384 tokens differ" in message
    assert "'zebra' in the drafter" in message
    llm = make_llama(Llama, tiny_verifier, drafter=tiny_drafters["dflash-b8"])
    llm(PROSE, max_tokens=30, temperature=0)
    check_drafts(llm)


# ---- a verifier without layer inputs -------------------------------------------------------

LOAD = """
import sys
from dflash_local import BackendError, Llama, ModelError
from dflash_local.files import taps
taps.TAPS.pop("gemma3")
taps.TAPS |= eval(sys.argv[3], {"Tap": taps.Tap})
options = {"n_ctx": 64, "n_threads": 1, "n_threads_batch": 1}
try:
    llm = Llama(sys.argv[1], drafter=sys.argv[2], **options)
    llm("the brown", max_tokens=4)
except (BackendError, ModelError) as error:
    print(error)
print(len(Llama(sys.argv[1], **options)("the brown", max_tokens=4)["choices"]), "plain answer")
"""


def load_in_a_process(drafter: Path, taps: str) -> subprocess.CompletedProcess[str]:
    """A gemma3 with a drafter, were these the taps of its architecture."""
    verifier = MODELS / "verifier-nolayerinp.gguf"
    return subprocess.run(
        [sys.executable, "-c", LOAD, str(verifier), str(drafter), taps],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, "GGML_NO_BACKTRACE": "1"},
    )


def test_a_verifier_without_a_tap_is_refused_with_the_reason(
    tiny_drafters: dict[str, Path],
) -> None:
    done = load_in_a_process(tiny_drafters["dflash-b8"], "{}")
    assert done.returncode == 0, done.stderr
    assert "no drafter can read verifiers of architecture 'gemma3'" in done.stdout
    assert "drafter=None" in done.stdout
    assert done.stdout.rstrip().endswith("1 plain answer")


def test_with_the_native_tap_on_a_graph_without_layer_inputs_the_process_would_die(
    tiny_drafters: dict[str, Path],
) -> None:
    done = load_in_a_process(tiny_drafters["dflash-b8"], "{'gemma3': Tap()}")
    assert done.returncode not in (0, 1)  # 1 would be an exception
    assert "layer input tensor is null" in done.stderr


def test_a_node_that_the_graph_does_not_have_is_told_when_it_is_loaded(
    tiny_drafters: dict[str, Path],
) -> None:
    done = load_in_a_process(tiny_drafters["dflash-b8"], "{'gemma3': Tap('layer_out')}")
    assert done.returncode == 0, done.stderr
    assert "the graph's node layer_out-0 gave 0 bytes" in done.stdout
    assert done.stdout.rstrip().endswith("1 plain answer")


# ---- arguments and warnings ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"vocab_only": True}, "vocab_only"),
        ({"draft_model": LlamaPromptLookupDecoding()}, "draft_model"),
        ({"width": -1}, "width is -1"),
    ],
    ids=["vocab_only", "draft_model", "width"],
)
def test_arguments_that_contradict_the_drafter(
    tiny_verifier: Path, tiny_drafters: dict[str, Path], options: dict[str, Any], part: str
) -> None:
    with pytest.raises(ValueError, match=part):
        Llama(tiny_verifier, drafter=tiny_drafters["dflash-b8"], **options)


def test_without_a_drafter_the_parents_own_draft_model_works(
    make_llama: MakeLlama, tiny_verifier: Path
) -> None:
    options = {"draft_model": LlamaPromptLookupDecoding(num_pred_tokens=4)}
    models = [make_llama(cls, tiny_verifier, **options) for cls in (llama_cpp.Llama, Llama)]
    answers = [llm(PROSE, max_tokens=200, temperature=0)["choices"] for llm in models]
    assert answers[0] == answers[1]
    assert 0 < models[1].stats.last.n_accepted < models[1].stats.last.n_drafted
    filled = [llm(PROSE, max_tokens=None, temperature=0)["usage"] for llm in models]
    assert filled[0] == filled[1]
    assert filled[1]["total_tokens"] == models[1].n_ctx()


def test_a_model_without_a_memory_reads_tokens_and_refuses_to_generate(
    make_llama: MakeLlama, tiny_verifier: Path
) -> None:
    llm = make_llama(Llama, tiny_verifier, vocab_only=True)
    assert llm.detokenize(llm.tokenize(PROSE.encode())) == PROSE.encode()
    assert llm.session is None
    assert llm.stats.total.n_tokens == 0
    with pytest.raises(ModelError, match="vocab_only"):
        llm(PROSE, max_tokens=4)


@pytest.fixture
def loaded_warnings(
    edited: Callable[..., Path], make_llama: MakeLlama, tiny_verifier: Path
) -> Callable[..., list[str]]:
    """The warnings of loading an edited drafter and answering twice."""

    def load(edit: Edit, **options: Any) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            llm = make_llama(Llama, tiny_verifier, drafter=edited(edit), **options)
            for _ in range(2):
                llm(PROSE, max_tokens=30, temperature=0)
                check_drafts(llm)
        assert all(w.category is RuntimeWarning for w in caught)
        return [str(w.message) for w in caught]

    return load


def test_another_chat_template_warns_once_and_drafts(
    loaded_warnings: Callable[..., list[str]], tiny_verifier: Path
) -> None:
    def with_template(template: str) -> list[str]:
        return loaded_warnings(set_key("tokenizer.chat_template", template, STRING))

    (found,) = with_template("{{ messages }}")
    assert "another chat template" in found
    assert with_template(GGUFHeader(tiny_verifier).get("tokenizer.chat_template")) == []
    # Not recorded: nothing to say.
    assert loaded_warnings(lambda c: c.keys.pop("tokenizer.chat_template", None)) == []


def test_a_width_beyond_the_block_warns_once_and_drafts(
    loaded_warnings: Callable[..., list[str]],
) -> None:
    (found,) = loaded_warnings(lambda _: None, width=12)
    assert "width 12" in found
    assert "7 at most" in found


def test_the_drafter_may_be_given_as_text_or_path(
    make_llama: MakeLlama, tiny_verifier: Path, tiny_drafters: dict[str, Path]
) -> None:
    path = tiny_drafters["dflash-b8"]
    for drafter in (path, str(path)):
        llm = make_llama(Llama, tiny_verifier, drafter=drafter, **F32)
        assert llm.drafter_path == path
        llm(PROSE, max_tokens=20, temperature=0)
        check_drafts(llm)

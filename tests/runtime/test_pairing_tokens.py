"""Vocabularies of a pair: which differences matter, and which are no text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pairings
import pytest
from conftest import MakeLlama
from gguf_contents import TOKENS, Contents
from pairings import PROSE

from dflash_local import Llama, ModelError
from dflash_local.files import pairing
from dflash_local.files.drafter_file import DrafterInfo

# pytest finds fixtures by the names of a module.
edited = pairings.edited
info = pairings.info
verifier = pairings.verifier


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

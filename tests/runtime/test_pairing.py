"""Pairs that do not fit: one error that lists everything, and never a dead process."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp
import pairings
import pytest
from conftest import F32, MakeLlama, check_drafts
from exactness import ONE_THREAD
from gguf_contents import TOKENS, Contents
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding
from pairings import PROSE, STRING, Edit, set_key

from dflash_local import Llama, ModelError
from dflash_local.files import pairing
from dflash_local.files.drafter_file import DrafterInfo
from dflash_local.files.gguf_header import GGUFHeader

# pytest finds fixtures by the names of a module.
edited = pairings.edited
info = pairings.info
verifier = pairings.verifier


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

"""Tokens to text: llama_cpp's bytes wherever it gives all of them, and long tokens as well."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest
from conftest import MakeLlama
from dflash_local.convert.verifiers import tokenizer as convert_tokenizer
from gguf_contents import TOKENS, Contents
from llama_cpp.llama_tokenizer import LlamaTokenizer

from dflash_local import BackendError, Llama
from dflash_local.runtime.detokenizer import Text

LONG = {300: "abcdefghij" * 4, 301: "x" * 33, 302: "y" * 1000, 303: "z" * 32}
PROMPT = "the brown"


def write_spm(path: Path, words: Sequence[str]) -> Path:
    """An SPM vocabulary of every byte and these words, with tokens that are no text."""
    kinds = gguf.TokenType
    entries: list[tuple[str, gguf.TokenType]] = [
        ("<unk>", kinds.UNKNOWN),
        ("<s>", kinds.CONTROL),
        ("</s>", kinds.CONTROL),
        *((f"<0x{byte:02X}>", kinds.BYTE) for byte in range(256)),
        *((word, kinds.NORMAL) for word in words),
        ("<tool>", kinds.USER_DEFINED),
        (" user", kinds.USER_DEFINED),
        ("<unused1>", kinds.UNUSED),
    ]
    writer = gguf.GGUFWriter(path, "llama")
    for add in ("block_count", "context_length", "embedding_length", "head_count"):
        getattr(writer, f"add_{add}")(8)
    writer.add_feed_forward_length(8)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _ in entries])
    writer.add_token_scores([float(-i) for i in range(len(entries))])
    writer.add_token_types([kind for _, kind in entries])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def spm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = ("▁", "▁a", "a", "▁▁the", "é", "▁é", "世界", "▁" * 9)
    return write_spm(tmp_path_factory.mktemp("spm") / "spm.gguf", words)


@pytest.fixture(scope="module")
def long_tokens(tmp_path_factory: pytest.TempPathFactory, tiny_verifier: Path) -> Path:
    """The tiny verifier, a few of whose tokens are longer than llama_cpp's buffer."""
    contents = Contents(tiny_verifier)
    for token, text in LONG.items():
        contents.keys[TOKENS][token] = text
    return contents.write(tmp_path_factory.mktemp("long") / "verifier.gguf")


@pytest.fixture(params=["bpe", "spm"])
def vocabularies(
    request: pytest.FixtureRequest, spm: Path, tiny_verifier: Path
) -> Iterator[tuple[llama_cpp.Llama, Llama]]:
    path = spm if request.param == "spm" else tiny_verifier
    options: dict[str, Any] = {"vocab_only": True, "verbose": False}
    with closing(llama_cpp.Llama(str(path), **options)) as parent, Llama(path, **options) as ours:
        yield parent, ours


def sequences(parent: llama_cpp.Llama) -> Iterator[list[int]]:
    rng = np.random.default_rng(1)
    for _ in range(300):
        tokens = rng.integers(0, parent.n_vocab(), int(rng.integers(0, 90))).tolist()
        yield tokens
        yield [parent.token_bos(), *tokens]


def test_every_text_is_llama_cpps(vocabularies: tuple[llama_cpp.Llama, Llama]) -> None:
    parent, ours = vocabularies
    n_spaced = 0
    for tokens in sequences(parent):
        for special in (False, True):
            expected = parent.detokenize(tokens, special=special)
            pieces = [parent.detokenize([token], special=special) for token in tokens]
            n_spaced += expected != b"".join(pieces)
            assert ours.detokenize(tokens, special=special) == expected
            assert ours.detokenize(tokens, prev_tokens=[5, 6], special=special) == expected
            assert ours.detokenize(tokens, [5, 6], special) == expected
        assert ours.detokenize(tuple(tokens)) == parent.detokenize(tokens)
        assert ours.detokenize(np.array(tokens, np.intc)) == parent.detokenize(tokens)
        assert ours.tokenizer().decode(tokens) == parent.tokenizer().decode(tokens)
    assert n_spaced > 0, "the space after the first token of a text is tried"


@pytest.mark.slow
def test_a_list_that_grows_shrinks_and_changes_is_read_as_it_is(
    vocabularies: tuple[llama_cpp.Llama, Llama],
) -> None:
    parent, ours = vocabularies
    rng = np.random.default_rng(2)
    tokens = [parent.token_bos()]
    for _ in range(1500):
        action = rng.integers(8)
        if action < 5:
            tokens.append(int(rng.integers(parent.n_vocab())))
        elif action == 5:
            del tokens[len(tokens) - int(rng.integers(3)) :]
        elif action == 6 and tokens:
            tokens[int(rng.integers(len(tokens)))] = int(rng.integers(parent.n_vocab()))
        special = bool(rng.integers(2))
        assert ours.detokenize(tokens, special=special) == parent.detokenize(
            tokens, special=special
        )
        part = tokens[: int(rng.integers(len(tokens) + 1))]
        assert ours.detokenize(part) == parent.detokenize(part)


def test_a_long_text_that_goes_on_costs_its_new_tokens() -> None:
    class Counted(dict[int, bytes]):
        read = 0

        def __getitem__(self, token: int) -> bytes:
            self.read += 1
            return super().__getitem__(token)

    pieces = Counted({token: b"%d " % token for token in range(10)})
    text = Text(pieces)
    tokens = [token % 10 for token in range(1000)]
    text.of(tokens)
    before = pieces.read
    for token in range(10):
        tokens.append(token)
        assert text.of(tokens).endswith(b"9 %d " % token if token == 0 else b"%d " % token)
        assert len(text.of(tokens[:-3])) == 2 * (len(tokens) - 3)
        text.of(tokens[-4:])  # a short one between
    assert pieces.read - before == 10 + 10 * 4


def test_libllama_is_asked_for_each_token_once(
    tiny_verifier: Path, make_llama: MakeLlama, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    ask = llama_cpp.llama_token_to_piece

    def counted(vocab: Any, token: int, *rest: Any) -> int:
        asked.append(token)
        return int(ask(vocab, token, *rest))

    monkeypatch.setattr(llama_cpp, "llama_token_to_piece", counted)
    llm = make_llama(Llama, tiny_verifier)
    list(llm.create_completion(PROMPT, max_tokens=60, temperature=0, stream=True, stop=["@@"]))
    assert 0 < len(asked) == len(set(asked))


# ---- tokens longer than 32 bytes -----------------------------------------------------------------


def test_a_long_token_is_read_whole(long_tokens: Path) -> None:
    with Llama(long_tokens, vocab_only=True) as llm:
        for token, text in LONG.items():
            assert llm.detokenize([token]) == text.encode()
            assert llm.tokenizer().decode([token]) == text
        everything = llm.detokenize([65, *LONG, 66] * 20)
        assert everything.count("".join(LONG.values()).encode()) == 20


@pytest.mark.parametrize("with_drafter", [False, True])
def test_no_text_of_an_answer_is_lost(
    long_tokens: Path,
    tiny_drafters: dict[str, Path],
    make_llama: MakeLlama,
    tmp_path: Path,
    with_drafter: bool,
) -> None:
    drafter = None
    if with_drafter:
        contents = Contents(tiny_drafters["dflash-b8"])
        contents.keys[TOKENS] = Contents(long_tokens).keys[TOKENS]
        drafter = contents.write(tmp_path / "drafter.gguf")
    llm = make_llama(Llama, long_tokens, drafter=drafter)
    settings: dict[str, Any] = {"max_tokens": 3, "temperature": 0, "logit_bias": {300: 1000.0}}
    whole = llm.create_completion(PROMPT, **settings)
    assert whole["choices"][0]["text"] == LONG[300] * 3
    chunks = llm.create_completion(PROMPT, stream=True, **settings)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == LONG[300] * 3
    stopped = llm.create_completion(PROMPT, stop=["j"], **settings)
    assert stopped["choices"][0]["text"] == "abcdefghi"
    answer = llm.create_chat_completion([{"role": "user", "content": "hi"}], **settings)
    assert answer["choices"][0]["message"]["content"] == LONG[300] * 3


def test_a_text_of_more_tokens_than_bytes_is_tokenized(tmp_path: Path) -> None:
    """Where the vocabulary has no word for a space, it is three bytes to SPM."""
    with convert_tokenizer.Tokenizer(write_spm(tmp_path / "spm.gguf", ["a"])) as tokenizer:
        tokens = tokenizer.tokenize(b"a " * 10, special=False)
    assert tokens.tolist() == [3 + byte for byte in "▁".encode()] + [
        token for _ in range(10) for token in (259, *(3 + byte for byte in "▁".encode()))
    ]


# ---- what stays the user's, and what is wrong ----------------------------------------------------


class Shouting(LlamaTokenizer):
    def __init__(self) -> None:
        self.asked = 0

    def tokenize(self, text: bytes, *_: bool) -> list[int]:
        return list(text)[:8]

    def detokenize(self, tokens: Any, **_: Any) -> bytes:
        self.asked += 1
        return b"A" * len(tokens)


def test_a_tokenizer_of_the_users_is_obeyed(
    tiny_verifier: Path, tiny_drafters: dict[str, Path], make_llama: MakeLlama
) -> None:
    for drafter in (None, tiny_drafters["dflash-b8"]):
        own = Shouting()
        llm = make_llama(Llama, tiny_verifier, drafter=drafter, tokenizer=own)
        assert llm.detokenize([1, 2, 3], prev_tokens=[4], special=True) == b"AAA"
        assert llm(PROMPT, max_tokens=5, temperature=0)["choices"][0]["text"] == "AAAAA"
        assert own.asked > 1


@pytest.mark.parametrize("token", [-1, 384, 1 << 40])
def test_a_token_outside_the_vocabulary_is_an_error(tiny_verifier: Path, token: int) -> None:
    with Llama(tiny_verifier, vocab_only=True) as llm:
        for tokens in ([token], [5] * 100 + [token]):
            with pytest.raises(ValueError, match=f"token {token}: expected one from 0 to 383"):
                llm.detokenize(tokens)
        assert llm.detokenize([5] * 100) == llm.detokenize([5]) * 100


def test_a_closed_model_tells_what_it_knows_and_nothing_more(tiny_verifier: Path) -> None:
    llm = Llama(tiny_verifier, vocab_only=True)
    known = llm.detokenize([70])
    llm.close()
    assert llm.detokenize([70]) == known
    with pytest.raises(BackendError, match="closed"):
        llm.detokenize([71])

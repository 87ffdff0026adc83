"""What the tokens of a smaller draft vocabulary are chosen by: text that is counted, or counts."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from conftest import MODELS
from dflash_local.convert import cli
from dflash_local.convert.verbs import count
from dflash_local.convert.verifiers.tokenizer import Tokenizer
from dflash_local.convert.vocabularies.corpus import count_tokens
from dflash_local.convert.vocabularies.frequencies import read_frequencies, write_frequencies
from exactness import ONE_THREAD

from dflash_local.errors import BackendError, DFlashError

N_VOCAB = 384
IM_END = 2


@pytest.fixture(scope="module")
def tokenizer() -> Iterator[Tokenizer]:
    with Tokenizer(MODELS / "verifier-f32.gguf") as tokenizer:
        yield tokenizer


@pytest.fixture(scope="module")
def llm() -> Iterator[llama_cpp.Llama]:
    llm = llama_cpp.Llama(str(MODELS / "verifier-f32.gguf"), n_ctx=64, verbose=False, **ONE_THREAD)
    yield llm
    llm.close()


def bins(tokens: list[int]) -> list[int]:
    return np.bincount(tokens, minlength=N_VOCAB).tolist()


def corpus(folder: Path, *rows: Any, name: str = "corpus.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def refused(path: Path, tokenizer: Tokenizer) -> str:
    with pytest.raises(DFlashError) as caught:
        count_tokens(path, tokenizer)
    assert str(path) in str(caught.value)
    return str(caught.value)


# ---- the tokenizer -------------------------------------------------------------------------


def test_tokens_and_ends_are_those_of_llama_cpp(
    tokenizer: Tokenizer, llm: llama_cpp.Llama, capfd: pytest.CaptureFixture[str]
) -> None:
    text = "anna is 7, ben likes tea.<|im_end|>\n éß\n".encode()
    for special in (False, True):
        expected = llm.tokenize(text, add_bos=False, special=special)
        assert tokenizer.tokenize(text, special=special).tolist() == expected
    assert tokenizer.tokenize(b"", special=True).tolist() == []
    assert tokenizer.end_tokens() == [0, IM_END]
    assert capfd.readouterr() == ("", "")


def test_a_file_that_libllama_cannot_load_is_refused(tmp_path: Path) -> None:
    (tmp_path / "v.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(BackendError, match="could not load the tokenizer"):
        Tokenizer(tmp_path / "v.gguf")


# ---- a corpus ------------------------------------------------------------------------------


def test_of_a_conversation_what_the_assistant_wrote_is_counted(
    tmp_path: Path, tokenizer: Tokenizer, llm: llama_cpp.Llama
) -> None:
    messages = [
        {"role": "user", "content": "Who is anna?"},
        {"role": "assistant", "content": "anna is a cat."},
        {"role": "user", "content": "And ben?"},
        {"role": "assistant", "content": "ben is a dog."},
    ]
    answers = "anna is a cat.<|im_end|>\n", "ben is a dog.<|im_end|>\n"
    tokens = [t for a in answers for t in llm.tokenize(a.encode(), add_bos=False, special=True)]
    counts = count_tokens(corpus(tmp_path, {"messages": messages}), tokenizer)
    assert counts.tolist() == bins(tokens)
    assert counts[IM_END] == 2


def test_of_a_prompt_without_an_answer_all_is_counted(
    tmp_path: Path, tokenizer: Tokenizer, llm: llama_cpp.Llama
) -> None:
    messages = [{"role": "user", "content": "Who is anna?"}]
    whole = b"<|im_start|>user\nWho is anna?<|im_end|>\n"
    tokens = llm.tokenize(whole, add_bos=False, special=True)
    path = corpus(tmp_path, {"messages": messages})
    assert count_tokens(path, tokenizer).tolist() == bins(tokens)


def test_conversations_need_a_chat_template(tmp_path: Path) -> None:
    model = (MODELS / "verifier-f32.gguf").read_bytes()
    key = b"tokenizer.chat_template"
    assert model.count(key) == 1
    (tmp_path / "v.gguf").write_bytes(model.replace(key, key[:-1] + b"_"))
    path = corpus(tmp_path, {"messages": [{"role": "user", "content": "Who is anna?"}]})
    with Tokenizer(tmp_path / "v.gguf") as without:
        assert "line 1: the verifier has no chat template" in refused(path, without)


def test_what_a_chat_template_refuses_is_told(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = corpus(tmp_path, {"messages": [{"role": "user", "content": 7}]})
    assert "line 1: the verifier's chat template refuses the messages" in refused(path, tokenizer)


def test_texts_prompts_and_token_ids_are_counted(
    tmp_path: Path, tokenizer: Tokenizer, llm: llama_cpp.Llama
) -> None:
    path = corpus(
        tmp_path,
        {"text": "anna"},
        {"prompt": "ben <|im_end|>"},
        {"tokens": [5, 6, 7, 7], "start": 1},
        {"tokens": [9]},
    )
    texts = (
        llm.tokenize(text, add_bos=False, special=False) for text in (b"anna", b"ben <|im_end|>")
    )
    expected = [token for tokens in texts for token in tokens] + [6, 7, 7, 9]
    assert count_tokens(path, tokenizer).tolist() == bins(expected)


@pytest.mark.parametrize("name", ["a.txt", "a.md.gz"])
def test_plain_text_is_counted_with_progress_to_its_end(
    name: str, tmp_path: Path, tokenizer: Tokenizer, llm: llama_cpp.Llama
) -> None:
    text = "".join(f"anna is {i} and likes tea.\n" for i in range(20_000)).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    seen: list[tuple[int, int]] = []
    counts = count_tokens(path, tokenizer, lambda done, total: seen.append((done, total)))
    assert counts.tolist() == bins(llm.tokenize(text, add_bos=False, special=False))
    size = path.stat().st_size
    assert {total for _, total in seen} == {size}
    assert len(seen) > 1
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == size


def test_every_bad_line_is_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = corpus(
        tmp_path,
        {"tokens": [N_VOCAB]},
        {"tokens": [-1]},
        {"tokens": [1.5]},
        {"tokens": [1], "start": 2},
        {"messages": []},
        {"messages": [{"role": "user"}]},
        {"answer": "what is this"},
        ["text"],
        {"text": "this line is fine"},
    )
    with path.open("a") as file:
        file.write("{broken\n")
    message = refused(path, tokenizer)
    for number in (1, 2, 3, 4, 5, 6, 7, 8, 10):
        assert f"line {number}: " in message
    assert "line 9:" not in message
    assert "token ids from 384 to 384, expected 0..383" in message


def test_of_many_bad_lines_the_first_are_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    message = refused(corpus(tmp_path, *[{}] * 1000), tokenizer)
    assert message.count("line ") == 10
    assert "there may be more" in message


@pytest.mark.parametrize(
    ("name", "data", "part"),
    [
        ("a.jsonl", b"", "holds no tokens"),
        ("a.jsonl", b"\n\n", "holds no tokens"),
        ("a.json", b"[]", "one JSON object a line"),
        ("a.txt", b"\xff\xfe\x00", "utf-8"),
        ("a.jsonl.gz", b"no gzip", "cannot be read"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "anna"}\n' * 99)[:-9], "cannot be read"),
        ("a.jsonl", b"[" * 100_000, "line 1: "),
    ],
)
def test_files_that_are_no_corpus_are_refused(
    name: str, data: bytes, part: str, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    (tmp_path / name).write_bytes(data)
    assert part in refused(tmp_path / name, tokenizer)


def test_a_corpus_that_is_not_there_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    assert "cannot be read" in refused(tmp_path / "none.txt", tokenizer)


# ---- the verb ------------------------------------------------------------------------------


def test_the_verb_writes_counts_and_tells_what_sizes_cover(
    tmp_path: Path,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(count, "SMALLEST", 2)
    path = corpus(tmp_path, {"tokens": [7, 7, 7, 8, 8, 9, 10, 11, 12, 13]})
    out = tmp_path / "counts"
    verifier = str(MODELS / "verifier-f32.gguf")
    assert cli.main(["count", str(path), "--verifier", verifier, "-o", str(out)]) == 0
    assert np.array_equal(read_frequencies(out, N_VOCAB), count_tokens(path, tokenizer))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{out}: 10 tokens, 7 different ones"
    assert [line.split() for line in lines[2:]] == [
        [str(2**i), share]
        for i, share in enumerate(("50.00%", "70.00%", *["100.00%"] * 6), start=1)
    ]


def test_the_verb_does_not_write_over_its_corpus(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = corpus(tmp_path, {"text": "anna"})
    before = path.read_bytes()
    verifier = str(MODELS / "verifier-f32.gguf")
    assert cli.main(["count", str(path), "--verifier", verifier, "-o", str(path)]) == 1
    assert "choose another -o" in capsys.readouterr().err
    assert path.read_bytes() == before


# ---- a file of counts ----------------------------------------------------------------------


def test_counts_that_are_written_are_read_again(tmp_path: Path) -> None:
    counts = np.zeros(N_VOCAB, np.int64)
    counts[[0, 7, 383]] = 3, 1 << 39, 1
    write_frequencies(tmp_path / "counts", counts)
    assert np.array_equal(read_frequencies(tmp_path / "counts", N_VOCAB), counts)


@pytest.mark.parametrize(
    "text", ["5 2\n7 1\n", "5\t2\r\n\n7,1", '{"5": 2, "7": 1}', '\n {"7": 1, "5": 2, "6": 0}']
)
def test_both_forms_of_counts_are_read(text: str, tmp_path: Path) -> None:
    (tmp_path / "counts").write_text(text)
    counts = read_frequencies(tmp_path / "counts", 10)
    assert counts.tolist() == [0, 0, 0, 0, 0, 2, 0, 1, 0, 0]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("5 1\n10 1\n", ["line 2: found token 10, expected an id below 10"]),
        ("5 1\n5 2\n", ["line 2: token 5 is there twice"]),
        ('{"5": 1, "5": 2}', ["entry: token 5 is there twice"]),
        ("a 1\n-1 2\n1 2 3\n4\n", ["line 1", "line 2", "line 3", "line 4: found '4 '"]),
        ('{"5": 1.5, "6": -1, "7": true, "x": 1}', ["5 1.5", "6 -1", "7 True", "x 1"]),
        ('{"5": ', ["not valid JSON"]),
        (f'{{"5": {"9" * 30}}}', ["expected a token id and a count"]),
        ("", ["counts no tokens"]),
        ("5 0", ["counts no tokens"]),
    ],
)
def test_wrong_counts_are_refused_with_every_reason(
    text: str, parts: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "counts"
    path.write_text(text)
    with pytest.raises(DFlashError) as caught:
        read_frequencies(path, 10)
    assert str(path) in str(caught.value)
    for part in parts:
        assert part in str(caught.value)

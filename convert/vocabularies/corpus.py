"""Counting the tokens of text that is like what the verifier will write.

A corpus is a file of rows (``.jsonl``, ``.json``, ``.parquet``), one conversation or text each, or
plain text (any other name); either may be gzipped. A row is an object with one of

    {"messages": [...]}         as for a chat completion; what the assistant wrote counts
    {"conversations": [...]}    ShareGPT's; also Alpaca's "instruction", "input", "output"
    {"tokens": [...]}           ids of the verifier's tokens; with "start": those from there on
    {"text": "..."}             "prompt" is another name for it
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dflash_local.errors import DFlashError
from dflash_local.rows.dialogue import Dialogue, read_dialogue
from dflash_local.rows.lines import read_lines
from dflash_local.rows.parquet import is_parquet
from dflash_local.rows.reader import Row, read_rows

from ..verifiers.tokenizer import Tokenizer, Tokens
from ..writing.writer import Progress
from .frequencies import Counts, refuse

_BLOCK = 1 << 18  # characters of text in memory at once, up to the end of a line
_ROW_SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
_EXPECTED = 'expected "messages", "conversations", "tokens", "text" or "prompt"'


def count_tokens(corpus: Path, tokenizer: Tokenizer, progress: Progress | None = None) -> Counts:
    """How often each of the verifier's tokens is in a corpus, [n_vocab].

    Args:
        progress: called with the bytes read and in all.

    Raises:
        DFlashError: the file cannot be read, holds no tokens, or has rows that are something
            else; it lists them.
    """
    counts = np.zeros(tokenizer.n_vocab, np.int64)
    has_rows = Path(corpus.name.removesuffix(".gz")).suffix in _ROW_SUFFIXES or is_parquet(corpus)
    take = _rows if has_rows else _text
    refuse(corpus, take(corpus, tokenizer, counts, progress))
    if not counts.any():
        raise DFlashError(f"{corpus} holds no tokens; expected text like the verifier's answers")
    return counts


def _rows(
    corpus: Path, tokenizer: Tokenizer, counts: Counts, progress: Progress | None
) -> Iterator[str | None]:
    """Counts the tokens of rows; gives what is wrong with each."""
    for row in read_rows(corpus, progress=progress):
        try:
            for tokens in _of_row(row, tokenizer):
                np.add.at(counts, tokens, 1)
            yield None
        except ValueError as error:
            yield f"{row.where}: {error}"


def _text(
    corpus: Path, tokenizer: Tokenizer, counts: Counts, progress: Progress | None
) -> Iterator[str | None]:
    """Counts the tokens of plain text; gives what is wrong with each line."""
    held, n_chars = [], 0
    for line in read_lines(corpus, progress):
        yield f"line {line.number}: {line.problem}" if line.problem else None
        held.append(line.text)
        n_chars += len(line.text)
        if n_chars >= _BLOCK:
            _add(counts, tokenizer, "".join(held))
            held, n_chars = [], 0
    _add(counts, tokenizer, "".join(held))


def _add(counts: Counts, tokenizer: Tokenizer, text: str) -> None:
    np.add.at(counts, tokenizer.tokenize(text.encode(), special=False), 1)


def _of_row(row: Row, tokenizer: Tokenizer) -> Iterator[Tokens]:
    if row.problem:
        raise ValueError(row.problem)
    if not isinstance(row.value, dict):
        raise ValueError(f"found {type(row.value).__name__}; expected one JSON object a line")
    fields: dict[str, Any] = row.value
    if "tokens" in fields:
        yield _ids(fields, tokenizer.n_vocab)
    elif isinstance(fields.get("text"), str):
        yield tokenizer.tokenize(fields["text"].encode(), special=False)
    else:
        yield from _of_dialogue(_dialogue(fields), tokenizer)


def _dialogue(fields: dict[str, Any]) -> Dialogue:
    try:
        return read_dialogue(fields)
    except ValueError as error:
        if "messages" in fields:
            raise ValueError(
                f"the verifier's chat template refuses the messages: {error}"
            ) from error
        raise ValueError(f"found {', '.join(fields) or 'nothing':.60}; {_EXPECTED}") from error


def _of_dialogue(dialogue: Dialogue, tokenizer: Tokenizer) -> Iterator[Tokens]:
    if dialogue.text:
        text = dialogue.answer or dialogue.text
        yield tokenizer.tokenize(text.encode(), special=False)
        return
    for answer in _answers(dialogue, tokenizer):
        yield tokenizer.tokenize(answer.encode(), special=True)


def _ids(row: dict[str, Any], n_vocab: int) -> Tokens:
    tokens, start = row["tokens"], row.get("start", 0)
    if not isinstance(tokens, list) or any(type(token) is not int for token in tokens):
        raise ValueError(f'"tokens" is {tokens!r:.60}, expected a list of token ids')
    if type(start) is not int or not 0 <= start <= len(tokens):
        raise ValueError(f'"start" is {start!r:.60}, expected an index of "tokens"')
    if tokens and not 0 <= min(tokens) <= max(tokens) < n_vocab:
        raise ValueError(
            f"token ids from {min(tokens)} to {max(tokens)}, expected 0..{n_vocab - 1}"
        )
    return np.array(tokens[start:], np.int32)


def _answers(dialogue: Dialogue, tokenizer: Tokenizer) -> list[str]:
    if not tokenizer.has_chat_template:
        raise ValueError('the verifier has no chat template; expected "text" instead of "messages"')
    try:
        return tokenizer.answers(dialogue.messages, dialogue.tools)
    except Exception as error:  # a template may raise anything
        raise ValueError(f"the verifier's chat template refuses the messages: {error}") from error

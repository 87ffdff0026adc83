"""Counting the tokens of text that is like what the verifier will write.

A corpus is a file of one conversation or text a line (``.jsonl``), or plain text (any other name);
either may be gzipped. A line of the first kind is an object with one of

    {"messages": [...]}         as for a chat completion; what the assistant wrote counts
    {"tokens": [...]}           ids of the verifier's tokens; with "start": those from there on
    {"text": "..."}             "prompt" is another name for it
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dflash_local.errors import DFlashError

from ..verifiers.tokenizer import Tokenizer, Tokens
from ..writing.writer import Progress
from .frequencies import Counts, refuse

_BLOCK_BYTES = 1 << 18  # of text in memory at once, up to the end of a line
_MAX_LINE = 1 << 24  # bytes; far above a conversation, far below what a small .gz can hold
_LINE_SUFFIXES = (".jsonl", ".ndjson")


def count_tokens(corpus: Path, tokenizer: Tokenizer, progress: Progress | None = None) -> Counts:
    """How often each of the verifier's tokens is in a corpus, [n_vocab].

    Args:
        progress: called with the bytes read and in all.

    Raises:
        DFlashError: the file cannot be read, holds no tokens, or has lines that are something
            else; it lists them.
    """
    counts = np.zeros(tokenizer.n_vocab, np.int64)
    suffix = Path(corpus.name.removesuffix(".gz")).suffix
    if suffix == ".json":
        raise DFlashError(f"{corpus}: expected one JSON object a line, in a file named .jsonl")
    by_line = suffix in _LINE_SUFFIXES

    def take(number: int, text: bytes) -> str | None:
        try:
            for tokens in _of_line(text, tokenizer) if by_line else _of_text(text, tokenizer):
                np.add.at(counts, tokens, 1)
        except (ValueError, RecursionError) as error:
            return f"line {number}: {error}"
        return None

    refuse(corpus, (take(*part) for part in _parts(corpus, by_line, progress)))
    if not counts.any():
        raise DFlashError(f"{corpus} holds no tokens; expected text like the verifier's answers")
    return counts


def _parts(corpus: Path, by_line: bool, progress: Progress | None) -> Iterator[tuple[int, bytes]]:
    """The lines that are not empty, or blocks of lines, with the number of the (first) line."""
    number = 1
    for lines in _blocks(corpus, progress):
        if by_line:
            yield from ((number + i, line) for i, line in enumerate(lines) if line.strip())
        else:
            yield number, b"".join(lines)
        number += len(lines)


def _blocks(corpus: Path, progress: Progress | None) -> Iterator[list[bytes]]:
    try:
        size = corpus.stat().st_size
        with corpus.open("rb") as raw:
            file: Any = gzip.GzipFile(fileobj=raw) if corpus.suffix == ".gz" else raw
            while lines := _lines(corpus, file):
                yield lines
                if progress is not None:
                    progress(raw.tell(), size)
    except (OSError, EOFError, zlib.error) as error:
        raise DFlashError(f"{corpus} cannot be read: {error}") from error


def _lines(corpus: Path, file: Any) -> list[bytes]:
    lines: list[bytes] = []
    n_bytes = 0
    while n_bytes < _BLOCK_BYTES and (line := file.readline(_MAX_LINE + 1)):
        if len(line) > _MAX_LINE:
            raise DFlashError(f"{corpus} has a line of more than {_MAX_LINE} bytes")
        lines.append(line)
        n_bytes += len(line)
    return lines


def _of_text(text: bytes, tokenizer: Tokenizer) -> Iterator[Tokens]:
    text.decode()  # anything but UTF-8 is no text, and an error
    yield tokenizer.tokenize(text, special=False)


def _of_line(line: bytes, tokenizer: Tokenizer) -> Iterator[Tokens]:
    row = json.loads(line)
    fields: dict[str, Any] = row if isinstance(row, dict) else {}
    text = fields.get("text", fields.get("prompt"))
    if "tokens" in fields:
        yield _ids(fields, tokenizer.n_vocab)
    elif "messages" in fields:
        for answer in _answers(fields, tokenizer):
            yield tokenizer.tokenize(answer.encode(), special=True)
    elif isinstance(text, str):
        yield tokenizer.tokenize(text.encode(), special=False)
    else:
        found = ", ".join(fields) or type(row).__name__
        raise ValueError(f'found {found:.60}; expected "messages", "tokens", "text" or "prompt"')


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


def _answers(row: dict[str, Any], tokenizer: Tokenizer) -> list[str]:
    messages = row["messages"]
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        raise ValueError('"messages" is no list of objects with "role" and "content"')
    if not tokenizer.has_chat_template:
        raise ValueError('the verifier has no chat template; expected "text" instead of "messages"')
    try:
        return tokenizer.answers(messages, row.get("tools"))
    except Exception as error:  # a template may raise anything
        raise ValueError(f"the verifier's chat template refuses the messages: {error}") from error


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and "content" in value

"""Tokens to text: what llama_cpp's tokenizer gives, whole, and at the same cost for each token.

llama_cpp has libllama spell the whole answer anew whenever a token is added to it, and makes room
for 32 bytes a token: what a longer one says is lost.
"""

from __future__ import annotations

import contextlib
import ctypes
import operator
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import llama_cpp
from llama_cpp.llama_tokenizer import LlamaTokenizer

from dflash_local.errors import BackendError

Holding = Callable[[], AbstractContextManager[None]]

_ROOM = 64  # bytes; libllama says how many it takes where these are too few
_SHORT = 32  # tokens that are joined sooner than compared with what was read before


class Tokenizer(LlamaTokenizer):  # type: ignore[misc]
    """A model's tokenizer. It remembers the bytes of each token, and the last long text.

    Args:
        llama: the model.
        holding: keeps it from being freed by another thread while libllama is asked.
    """

    def __init__(self, llama: llama_cpp.Llama, holding: Holding = contextlib.nullcontext) -> None:
        super().__init__(llama)
        self._holding = holding
        with holding():
            self._bos = self._model.token_bos()
            pieces = [Pieces(self._model, special, holding) for special in (False, True)]
        self._texts = [Text(of) for of in pieces]

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = True) -> list[int]:
        """The tokens of a text in UTF-8."""
        with self._holding():
            return list(super().tokenize(text, add_bos, special))

    def detokenize(
        self,
        tokens: Sequence[int],
        prev_tokens: Sequence[int] | None = None,  # noqa: ARG002 - as in llama_cpp's own
        special: bool = False,
    ) -> bytes:
        """The bytes of tokens: UTF-8, where they end with a character.

        Raises:
            ValueError: one of them is not in the vocabulary.
        """
        known = tokens if isinstance(tokens, list) else list(tokens)
        text = self._texts[bool(special)].of(known)
        # SPM vocabularies begin a text with a space that nobody wrote.
        spaced = known[:1] == [self._bos] and text.startswith(b" ")
        return text[1:] if spaced else text


class Pieces(dict[int, bytes]):
    """The bytes of each token, asked of libllama when they are first wanted."""

    def __init__(self, model: Any, special: bool, holding: Holding) -> None:
        super().__init__()
        self._model = model
        self._holding = holding
        self._special = special
        self._n_vocab = model.n_vocab()

    def __missing__(self, token: int) -> bytes:
        token = operator.index(token)
        if not 0 <= token < self._n_vocab:  # libllama would end the process
            raise ValueError(f"token {token}: expected one from 0 to {self._n_vocab - 1}")
        with self._holding():
            if self._model.model is None:
                raise BackendError("the model is closed: its tokens cannot be read any more")
            piece = self[token] = self._ask(token, _ROOM)
        return piece

    def _ask(self, token: int, room: int) -> bytes:
        buffer = ctypes.create_string_buffer(room)
        size = llama_cpp.llama_token_to_piece(
            self._model.vocab, token, buffer, room, 0, self._special
        )
        return self._ask(token, -size) if size < 0 else buffer.raw[:size]


class Text:
    """Joins pieces. A long text that goes on, or is a part of the last one, costs what is new."""

    def __init__(self, pieces: dict[int, bytes]) -> None:
        self._pieces = pieces
        self._lock = threading.Lock()
        self._clear()

    def of(self, tokens: list[int]) -> bytes:
        """The bytes of the tokens."""
        if len(tokens) <= _SHORT:
            return b"".join(map(self._pieces.__getitem__, tokens))
        with self._lock:
            if not self._agrees(tokens):
                self._clear()
            for token in tokens[len(self._tokens) :]:
                self._add(token)
            end = self._ends[len(tokens)]
            return bytes(self._text if end == len(self._text) else self._text[:end])

    def _clear(self) -> None:
        self._tokens: list[int] = []
        self._text = bytearray()
        self._ends = [0]  # of the text, by the number of tokens

    def _agrees(self, tokens: list[int]) -> bool:
        n = len(self._tokens)
        if n > len(tokens):
            return tokens == self._tokens[: len(tokens)]
        return tokens[:n] == self._tokens

    def _add(self, token: int) -> None:
        self._text += self._pieces[token]
        self._tokens.append(token)
        self._ends.append(len(self._text))

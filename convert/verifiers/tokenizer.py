"""A verifier's tokenizer and chat template, as libllama and llama_cpp have them; no weights."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from dflash_local.errors import BackendError
from dflash_local.llama_log import captured_log

Tokens = npt.NDArray[np.int32]
Message = dict[str, Any]


class Tokenizer:
    """The vocabulary of a GGUF. Close it, or use it in a ``with``.

    Raises:
        BackendError: libllama cannot load it.
    """

    def __init__(self, path: Path) -> None:
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        with captured_log() as log:
            llama_cpp.llama_backend_init()
            self._model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
        if self._model is None:
            reason = "".join(log).strip() or "it does not say why"
            raise BackendError(f"{path}: libllama could not load the tokenizer: {reason}")
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.n_vocab: int = llama_cpp.llama_vocab_n_tokens(self._vocab)

    def __enter__(self) -> Tokenizer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees the vocabulary."""
        if self._model is not None:
            llama_cpp.llama_model_free(self._model)
            self._model = None

    @property
    def has_chat_template(self) -> bool:
        """Whether there is one to write conversations out by."""
        return self._chat_template is not None

    def end_tokens(self) -> list[int]:
        """The tokens that end an answer, ascending."""
        is_end = llama_cpp.llama_vocab_is_eog
        return [token for token in range(self.n_vocab) if is_end(self._vocab, token)]

    def tokenize(self, text: bytes, *, special: bool) -> Tokens:
        """Tokens of UTF-8 text; ``special``: the names of control tokens in it count as such."""
        room = len(text) + 8  # a token a byte, and what a tokenizer puts in front
        with captured_log() as log:
            tokens, n_tokens = self._tokenize(text, special, room)
            if n_tokens < 0:  # a normalizer may make more of a text than it was
                tokens, n_tokens = self._tokenize(text, special, -n_tokens)
        if n_tokens < 0:
            raise BackendError(f"libllama could not tokenize {len(text)} bytes: {''.join(log)}")
        return tokens[:n_tokens]

    def _tokenize(self, text: bytes, special: bool, room: int) -> tuple[Tokens, int]:
        tokens = np.empty(room, np.int32)
        pointer = tokens.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token))
        n_tokens = llama_cpp.llama_tokenize(
            self._vocab, text, len(text), pointer, room, False, special
        )
        return tokens, int(n_tokens)

    def answers(self, messages: Sequence[Message], tools: Any = None) -> list[str]:
        """What the assistant wrote in a conversation, as its template spells it, end marks too.

        The whole conversation where nobody has answered in it. A template may raise anything.
        """
        assert self.has_chat_template
        turns = [i for i, message in enumerate(messages) if message.get("role") == "assistant"]
        texts = []
        for turn in turns:
            question = self._render(messages[:turn], tools, answer_next=True)
            # Where the template rewrites what came before, nothing is removed.
            texts.append(self._render(messages[: turn + 1], tools).removeprefix(question))
        return texts or [self._render(messages, tools)]

    def _render(self, messages: Sequence[Message], tools: Any, *, answer_next: bool = False) -> str:
        self._chat.add_generation_prompt = answer_next
        return str(self._chat(messages=list(messages), tools=tools).prompt)

    @property
    def _chat_template(self) -> str | None:
        template = llama_cpp.llama_model_chat_template(self._model, None)
        return template.decode("utf-8", "replace") if template else None

    @cached_property
    def _chat(self) -> Any:
        """Made when it is needed: a template may be none that can be read."""
        begin = llama_cpp.llama_vocab_bos(self._vocab)
        end = llama_cpp.llama_vocab_eos(self._vocab)
        return Jinja2ChatFormatter(
            self._chat_template,
            eos_token=self._text(end),
            bos_token=self._text(begin),
        )

    def _text(self, token: int) -> str:
        if token < 0:
            return ""
        text: bytes = llama_cpp.llama_vocab_get_text(self._vocab, token)
        return text.decode("utf-8", "replace")

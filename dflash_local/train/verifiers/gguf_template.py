"""Prompts by a GGUF's own tokenizer and chat template, as llama_cpp's calls make them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import llama_cpp

from dflash_local.errors import PromptError
from dflash_local.rows.faithful import Settings, Tools
from dflash_local.rows.messages import Message
from dflash_local.runtime.llama import Llama
from dflash_local.runtime.rendering import (
    NO_TEMPLATE,
    chat_template,
    faithful_template,
    text_tokens,
    written,
)
from dflash_local.train.turns import (
    ASKED,
    SENTINEL,
    behind_answer,
    continued,
    first_end,
    header_of,
)


class Template:
    """The verifier's tokenizer and chat template; no weights are loaded.

    Args:
        thinking: how the template's switch for thinking is set; None leaves it alone.

    Raises:
        ModelError: the file has none, or its template is no template.
    """

    def __init__(self, verifier: Path, thinking: bool | None = None) -> None:
        self._settings = {} if thinking is None else {"enable_thinking": thinking}
        self.llm = Llama(verifier, vocab_only=True)
        self._faithful = faithful_template(self.llm)
        self._reader = self.llm.tokenizer()
        self._vocab = llama_cpp.llama_model_get_vocab(self.llm.model)

    def prompt(
        self, messages: Sequence[Message], tools: Tools = None, settings: Settings | None = None
    ) -> list[int]:
        """Tokens up to where the assistant begins.

        Raises:
            PromptError: there is no chat template, it has no such setting, it refuses the messages,
                or it leaves one of them out.
        """
        self._check_template()
        settings = {**self._settings, **(settings or {})}
        return self._faithful.prompt(messages, tools, settings).tokens

    def turn(
        self, messages: Sequence[Message], tools: Tools = None, settings: Settings | None = None
    ) -> list[int]:
        """Tokens of the last message, the assistant's, as the template writes them, with its end.

        Raises:
            PromptError: the template does not write it behind its prompt.
        """
        settings = {**self._settings, **(settings or {})}
        spelled = self._faithful.spelled(messages)
        asked, whole = (
            written(self.llm, turns, tools, settings, answer_next=answer_next)
            for turns, answer_next in ((spelled[:-1], True), (spelled, False))
        )
        return continued(asked, whole, self._tokens, self.is_end, self.turn_end)

    def writes_tools(self, messages: Sequence[Message], tools: Tools, settings: Settings) -> bool:
        """Whether the template tells the model of tools."""
        return self._faithful.writes_tools(messages, tools, {**self._settings, **settings})

    def text(self, text: str) -> list[int]:
        """Tokens of a text to be continued."""
        return text_tokens(self.llm, text)

    def user_header(self) -> list[int]:
        """Tokens up to where the user begins."""
        prompt = self.prompt([{"role": "user", "content": SENTINEL}])
        return [*self._added_bos(prompt), *self._tokens(header_of(self.exact_text(prompt)))]

    def answer(self, text: str, *, ended: bool) -> list[int]:
        """Tokens of an answer, with the end of the turn where it came to it."""
        tokens = self.llm.tokenize(text.encode(), add_bos=False, special=False)
        return [*tokens, self.turn_end] if ended else list(tokens)

    @cached_property
    def turn_end(self) -> int:
        """The token that ends the assistant's turns: what the chat template writes behind them.

        Where it writes none: the file's own ``eot``, else the end of a text.
        """
        try:
            text = written(self.llm, ASKED, None, self._settings, answer_next=False)
        except PromptError:
            return self.text_end
        end = first_end(self._tokens(behind_answer(text)), self.is_end)
        own = (self.llm.metadata or {}).get("tokenizer.ggml.eot_token_id")
        return end if end is not None else self.text_end if own is None else int(own)

    @property
    def text_end(self) -> int:
        """The token that ends a text."""
        return int(self.llm.token_eos())

    def is_end(self, token: int) -> bool:
        """Whether a token ends an answer."""
        return bool(llama_cpp.llama_vocab_is_eog(self._vocab, token))

    def exact_text(self, tokens: Sequence[int]) -> str:
        """Text that a server makes these tokens of; a BOS it adds itself."""
        own = list(tokens[len(self._added_bos(tokens)) :])
        return str(self._reader.detokenize(own, special=True).decode("utf-8", "replace"))

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens, without special ones."""
        return str(self._reader.detokenize(list(tokens)).decode("utf-8", "replace"))

    def _tokens(self, text: str) -> list[int]:
        return list(self.llm.tokenize(text.encode(), add_bos=False, special=True))

    def _check_template(self) -> None:
        if chat_template(self.llm) is None:
            raise PromptError(f"this verifier's GGUF {NO_TEMPLATE}")

    def _added_bos(self, tokens: Sequence[int]) -> list[int]:
        """The BOS that the tokenizer put before a text, if it did."""
        adds = llama_cpp.llama_vocab_get_add_bos(self._vocab)
        begins = adds and list(tokens[:1]) == [self.llm.token_bos()]
        return list(tokens[:1]) if begins else []

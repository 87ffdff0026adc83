"""Prompts by a Hugging Face tokenizer and its chat template."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from dflash_local.errors import PromptError
from dflash_local.rows.faithful import (
    FaithfulTemplate,
    Rendered,
    Settings,
    Tools,
)
from dflash_local.rows.messages import Message
from dflash_local.runtime.rendering import NO_TEMPLATE, refusals
from dflash_local.train.turns import (
    ASKED,
    SENTINEL,
    behind_answer,
    continued,
    first_end,
    header_of,
)


class HfTemplate:
    """A tokenizer and its chat template.

    Args:
        tokenizer: transformers'.
        thinking: how the template's switch for thinking is set; None leaves it alone.
        ends: tokens that end an answer, as config and generation config have them.
    """

    def __init__(
        self, tokenizer: Any, thinking: bool | None = None, ends: Sequence[int] = ()
    ) -> None:
        self._tokenizer = tokenizer
        self._settings = {} if thinking is None else {"enable_thinking": thinking}
        self._ends = list(ends) or [tokenizer.eos_token_id]
        self._faithful = FaithfulTemplate(self._rendered, lambda: chat_template(tokenizer) or "")

    def prompt(
        self, messages: Sequence[Message], tools: Tools = None, settings: Settings | None = None
    ) -> list[int]:
        """Tokens up to where the assistant begins.

        Raises:
            PromptError: there is no chat template, it has no such setting, it refuses the messages,
                or it leaves one of them out.
        """
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
        asked = self._written(spelled[:-1], tools, settings, answer_next=True)
        whole = self._written(spelled, tools, settings, answer_next=False)
        return continued(asked, whole, self._tokens, self.is_end, self.turn_end)

    def writes_tools(self, messages: Sequence[Message], tools: Tools, settings: Settings) -> bool:
        """Whether the template tells the model of tools."""
        return self._faithful.writes_tools(messages, tools, {**self._settings, **settings})

    def text(self, text: str) -> list[int]:
        """Tokens of a text to be continued."""
        return list(self._tokenizer(text).input_ids)

    def user_header(self) -> list[int]:
        """Tokens up to where the user begins."""
        asked: list[Message] = [{"role": "user", "content": SENTINEL}]
        text = self._faithful.prompt(asked, None, self._settings).text
        return self._tokens(header_of(text))

    def answer(self, text: str, *, ended: bool) -> list[int]:
        """Tokens of an answer, with the end of the turn where it came to it."""
        tokens = self._tokens(text, split_special_tokens=True)
        return [*tokens, self.turn_end] if ended else tokens

    @cached_property
    def turn_end(self) -> int:
        """The token that ends the assistant's turns: what the chat template writes behind them.

        Where it writes none: the end of a text.
        """
        try:
            text = self._written(ASKED, None, self._settings, answer_next=False)
        except PromptError:
            return self.text_end
        end = first_end(self._tokens(behind_answer(text)), self.is_end)
        return self.text_end if end is None else end

    @property
    def text_end(self) -> int:
        """The token that ends a text: the tokenizer's, where generation ends with it too."""
        own = self._tokenizer.eos_token_id
        return int(own if own in self._ends else self._ends[0])

    def is_end(self, token: int) -> bool:
        """Whether a token ends an answer."""
        return token in self._ends

    def exact_text(self, tokens: Sequence[int]) -> str:
        """Text that a server makes these tokens of; a BOS it adds itself."""
        bos = [self._tokenizer.bos_token_id]
        begins = list(tokens[:1]) == bos == self.text("")[:1]
        return self._decode(tokens[1:] if begins else tokens, skip_special_tokens=False)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens, without special ones."""
        return self._decode(tokens, skip_special_tokens=True)

    def _rendered(self, messages: Sequence[Message], tools: Tools, settings: Settings) -> Rendered:
        text = self._written(messages, tools, settings, answer_next=True)
        return Rendered(text, self._tokens(text))

    def _written(
        self, messages: Sequence[Message], tools: Tools, settings: Settings, *, answer_next: bool
    ) -> str:
        if chat_template(self._tokenizer) is None:
            raise PromptError(f"this verifier's tokenizer {NO_TEMPLATE}")
        with refusals():
            return str(
                self._tokenizer.apply_chat_template(
                    list(messages),
                    tools=tools,
                    tokenize=False,
                    add_generation_prompt=answer_next,
                    **settings,
                )
            )

    def _tokens(self, text: str, **settings: bool) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False, **settings).input_ids)

    def _decode(self, tokens: Sequence[int], *, skip_special_tokens: bool) -> str:
        return str(
            self._tokenizer.decode(
                list(tokens),
                skip_special_tokens=skip_special_tokens,
                clean_up_tokenization_spaces=False,
            )
        )


def chat_template(tokenizer: Any) -> str | None:
    """The template that messages go through; None where there is none."""
    try:
        return str(tokenizer.get_chat_template())
    except ValueError:
        return None

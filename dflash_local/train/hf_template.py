"""Prompts by a Hugging Face tokenizer and its chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from dflash_local.errors import DFlashError
from dflash_local.rendering import Message

_SENTINEL = "\x02"


class HfTemplate:
    """A tokenizer and its chat template.

    Args:
        tokenizer: transformers'.
        thinking: how the template's switch for thinking is set; None leaves it alone.
    """

    def __init__(self, tokenizer: Any, thinking: bool | None = None) -> None:
        self._tokenizer = tokenizer
        self._thinking = thinking

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Tokens up to where the assistant begins.

        Raises:
            DFlashError: there is no chat template, it has no switch for thinking, or it refuses
                the messages.
        """
        return self._tokens(self._rendered(messages))

    def text(self, text: str) -> list[int]:
        """Tokens of a text to be continued."""
        return list(self._tokenizer(text).input_ids)

    def user_header(self) -> list[int]:
        """Tokens up to where the user begins."""
        whole = self._rendered([{"role": "user", "content": _SENTINEL}])
        return self._tokens(whole.split(_SENTINEL)[0])

    def answer(self, text: str, *, ended: bool) -> list[int]:
        """Tokens of an answer, with the end of generation where it came to it."""
        tokens = self._tokens(text, split_special_tokens=True)
        return [*tokens, self._tokenizer.eos_token_id] if ended else tokens

    def exact_text(self, tokens: Sequence[int]) -> str:
        """Text that a server makes these tokens of; a BOS it adds itself."""
        bos = [self._tokenizer.bos_token_id]
        begins = list(tokens[:1]) == bos == self.text("")[:1]
        return self._decode(tokens[1:] if begins else tokens, skip_special_tokens=False)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens, without special ones."""
        return self._decode(tokens, skip_special_tokens=True)

    def _rendered(self, messages: Sequence[Message]) -> str:
        settings = {} if self._thinking is None else {"enable_thinking": self._thinking}
        template = chat_template(self._tokenizer)
        if template is None:
            raise DFlashError(
                "this verifier's tokenizer has no chat template, so it cannot be sent messages: "
                'expected lines {"prompt": "..."} in --prompts, or a model that is tuned to chat'
            )
        if settings and "enable_thinking" not in template:
            raise DFlashError("this verifier's chat template has no switch for thinking")
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    list(messages), tokenize=False, add_generation_prompt=True, **settings
                )
            )
        except TemplateError as error:
            raise DFlashError(f"the chat template refuses these messages: {error}") from error

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

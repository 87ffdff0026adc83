"""From messages or a text to the tokens that llama_cpp's own calls would read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import llama_cpp
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from .errors import DFlashError

Message = dict[str, Any]


def chat_tokens(
    llm: llama_cpp.Llama, messages: Sequence[Message], *, thinking: bool | None = None
) -> list[int]:
    """What ``create_chat_completion`` would read, by the model's chat handler and tokenizer.

    Args:
        thinking: the template's ``enable_thinking``, which llama_cpp's handlers cannot be told.

    Raises:
        DFlashError: the model's template has no such switch.
    """
    if thinking is not None:
        return _with_thinking(llm, messages, thinking)
    probe = _Probe(llm)
    llama_cpp.Llama.create_chat_completion(probe, messages=list(messages), stream=True)
    return probe.tokens


def _with_thinking(llm: llama_cpp.Llama, messages: Sequence[Message], thinking: bool) -> list[int]:
    template = (llm.metadata or {}).get("tokenizer.chat_template", "")
    if "enable_thinking" not in template:
        raise DFlashError("this verifier's chat template has no switch for thinking")
    vocab = llama_cpp.llama_model_get_vocab(llm.model)
    texts = {
        name: llama_cpp.llama_vocab_get_text(vocab, token).decode("utf-8", "replace")
        if token >= 0
        else ""
        for name, token in (("eos_token", llm.token_eos()), ("bos_token", llm.token_bos()))
    }
    formatted = Jinja2ChatFormatter(template, **texts)(
        messages=list(messages), enable_thinking=thinking
    )
    return list(llm.tokenize(formatted.prompt.encode(), add_bos=False, special=True))


def text_tokens(llm: llama_cpp.Llama, text: str) -> list[int]:
    """What ``create_completion`` would read."""
    return list(llm.tokenize(text.encode(), add_bos=True, special=True))


class _Probe:
    """Stands in for a model: takes the prompt that its chat handler makes and runs nothing."""

    def __init__(self, llm: llama_cpp.Llama) -> None:
        self._llm = llm
        self.tokens: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    def create_completion(self, prompt: list[int], **_settings: object) -> object:
        self.tokens = list(prompt)
        return iter(())

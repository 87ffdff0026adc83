"""From messages or a text to the tokens that llama_cpp's own calls would read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import llama_cpp

Message = dict[str, Any]


def chat_tokens(llm: llama_cpp.Llama, messages: Sequence[Message]) -> list[int]:
    """What ``create_chat_completion`` would read, by the model's chat handler and tokenizer."""
    probe = _Probe(llm)
    llama_cpp.Llama.create_chat_completion(probe, messages=list(messages), stream=True)
    return probe.tokens


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

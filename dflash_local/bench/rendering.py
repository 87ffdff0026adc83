"""From a prompt to the tokens that ``create_chat_completion`` would read."""

from __future__ import annotations

from typing import Any

import llama_cpp

from .suite import Prompt


def render(llm: llama_cpp.Llama, prompt: Prompt) -> list[int]:
    """The prompt's tokens, made by llama_cpp's own chat template and tokenizer."""
    if prompt.text:
        tokens: list[int] = llm.tokenize(prompt.text.encode(), add_bos=True, special=True)
        return tokens
    probe = _Probe(llm)
    llama_cpp.Llama.create_chat_completion(probe, messages=list(prompt.messages), stream=True)
    return probe.tokens


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

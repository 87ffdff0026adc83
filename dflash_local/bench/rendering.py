"""From a prompt to its tokens."""

from __future__ import annotations

import llama_cpp

from dflash_local.rendering import chat_tokens, text_tokens

from .suite import Prompt


def render(llm: llama_cpp.Llama, prompt: Prompt) -> list[int]:
    """The prompt's tokens, made by llama_cpp's own chat template and tokenizer."""
    return text_tokens(llm, prompt.text) if prompt.text else chat_tokens(llm, prompt.messages)

"""From a prompt to its tokens."""

from __future__ import annotations

import llama_cpp

from dflash_local.runtime.rendering import faithful_template, text_tokens

from .suite import Prompt


def render(llm: llama_cpp.Llama, prompt: Prompt) -> list[int]:
    """The prompt's tokens, made by llama_cpp's own chat template and tokenizer.

    Raises:
        PromptError: the template refuses it, or cannot write all of it.
    """
    if prompt.text:
        return text_tokens(llm, prompt.text)
    return faithful_template(llm).prompt(prompt.messages, prompt.tools, prompt.settings).tokens

"""From messages or a text to the tokens that llama_cpp's own calls would read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import llama_cpp
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from dflash_local.errors import PromptError
from dflash_local.files.model_header import TEMPLATE_KEY
from dflash_local.rows.faithful import (
    FaithfulTemplate,
    Rendered,
    Settings,
    Tools,
)
from dflash_local.rows.messages import Message

NO_TEMPLATE = (
    "has no chat template, so it cannot be sent messages: expected lines "
    '{"prompt": "..."} in --prompts, or a model that is tuned to chat'
)
#: What such a model is told by llama_cpp's own call.
AS_LLAMA_2 = "has no chat template: it is asked as Llama 2 would be, [INST]"


def chat_template(llm: llama_cpp.Llama) -> str | None:
    """The template in the model's file, None where there is none.

    There, llama_cpp falls back to the prompts of Llama 2, ``[INST] ... [/INST]``.
    """
    found = (llm.metadata or {}).get(TEMPLATE_KEY)
    return None if found is None else str(found)


def faithful_template(llm: llama_cpp.Llama) -> FaithfulTemplate:
    """The model's chat template, held to what it is given."""

    def render(messages: Sequence[Message], tools: Tools, settings: Settings) -> Rendered:
        return render_chat(llm, messages, tools, settings)

    return FaithfulTemplate(render, lambda: chat_template(llm) or "")


def render_chat(
    llm: llama_cpp.Llama,
    messages: Sequence[Message],
    tools: Tools = None,
    settings: Settings | None = None,
) -> Rendered:
    """What ``create_chat_completion`` would read, by the model's chat handler and tokenizer.

    Args:
        settings: of the template, which llama_cpp's own call cannot be told.

    Raises:
        PromptError: the template refuses the messages.
    """
    if settings:
        text = written(llm, messages, tools, settings, answer_next=True)
        return Rendered(text, list(llm.tokenize(text.encode(), add_bos=False, special=True)))
    probe = _Probe(llm)
    with refusals():
        llama_cpp.Llama.create_chat_completion(
            probe, messages=list(messages), tools=tools, stream=True
        )
    return Rendered(probe.text, probe.tokens)


def written(
    llm: llama_cpp.Llama,
    messages: Sequence[Message],
    tools: Tools = None,
    settings: Settings | None = None,
    *,
    answer_next: bool,
) -> str:
    """What the template in the model's file writes, up to where the assistant begins or without.

    Raises:
        PromptError: there is none, or it refuses the messages.
    """
    template = chat_template(llm)
    if template is None:
        raise PromptError(f"this model {NO_TEMPLATE}")
    vocab = llama_cpp.llama_model_get_vocab(llm.model)
    names = (
        llama_cpp.llama_vocab_get_text(vocab, token).decode("utf-8", "replace")
        if token >= 0
        else ""
        for token in (llm.token_eos(), llm.token_bos())
    )
    with refusals():
        format_chat = _formatter(template, *names, answer_next)
        return str(format_chat(messages=list(messages), tools=tools, **(settings or {})).prompt)


@contextmanager
def refusals() -> Iterator[None]:
    """Whatever a chat template raises, as a PromptError: it may be anything."""
    try:
        yield
    except Exception as error:
        said = str(error).strip() or type(error).__name__
        raise PromptError(f"the chat template refuses these messages: {said}") from error


def text_tokens(llm: llama_cpp.Llama, text: str) -> list[int]:
    """What ``create_completion`` would read."""
    return list(llm.tokenize(text.encode(), add_bos=True, special=True))


@lru_cache(maxsize=8)
def _formatter(template: str, eos: str, bos: str, answer_next: bool) -> Any:
    return Jinja2ChatFormatter(
        template, eos_token=eos, bos_token=bos, add_generation_prompt=answer_next
    )


class _Probe:
    """Stands in for a model: takes the prompt that its chat handler makes and runs nothing."""

    def __init__(self, llm: llama_cpp.Llama) -> None:
        self._llm = llm
        self.text = ""
        self.tokens: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    def tokenize(self, text: bytes, **settings: bool) -> list[int]:
        self.text = text.decode("utf-8", "replace")
        return list(self._llm.tokenize(text, **settings))

    def create_completion(self, prompt: list[int], **_settings: object) -> object:
        self.tokens = list(prompt)
        return iter(())

"""Chat templates, asked so that nothing of a conversation is lost or changed unseen.

A template may write None where a call has no content, leave out turns of roles that it does not
know, or write arguments as Python does. What it cannot write right is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from dflash_local.errors import PromptError

from .messages import Message

Tools = Sequence[Mapping[str, Any]] | None
Settings = Mapping[str, Any]

_PROBE = "dflash_probe"
# What the callers of a template set, or what would make something else of the prompt.
_RESERVED = {
    *("messages", "conversation", "tools", "functions", "documents", "tool_choice"),
    *("add_generation_prompt", "continue_final_message", "chat_template", "tokenize"),
    *("bos_token", "eos_token", "raise_exception", "strftime_now", "tokenizer_kwargs"),
    *("padding", "truncation", "max_length", "return_tensors", "return_dict"),
}


class Rendered(NamedTuple):
    """What a chat template writes, and its tokens."""

    text: str
    tokens: list[int]


class Render(Protocol):
    """Writes messages, up to where the assistant begins; raises PromptError."""

    def __call__(
        self, messages: Sequence[Message], tools: Tools, settings: Settings
    ) -> Rendered: ...


class FaithfulTemplate:
    """A chat template that is held to what it is given.

    Args:
        render: writes messages by it.
        source: gives the text of the template, in which the names of its settings are.
    """

    def __init__(self, render: Render, source: Callable[[], str]) -> None:
        self._render = render
        self._source = source
        self._written: set[tuple[str, bool]] = set()
        self._as_text: bool | None = None  # of arguments; None: not yet known

    def prompt(
        self, messages: Sequence[Message], tools: Tools = None, settings: Settings | None = None
    ) -> Rendered:
        """What the assistant is to answer.

        Raises:
            PromptError: the template refuses it, leaves a turn out, or has no such setting.
        """
        settings = settings or {}
        check_settings(settings, self._source())
        spelled = self.spelled(messages)
        rendered = self._render(spelled, tools, settings)
        for at in range(len(spelled)):
            self._check_turn(rendered.text, spelled, at, tools, settings)
        return rendered

    def writes_tools(self, messages: Sequence[Message], tools: Tools, settings: Settings) -> bool:
        """Whether tools make a difference to what the template writes."""
        spelled = self.spelled(messages)
        with_them, without = (self._render(spelled, t, settings).text for t in (tools, None))
        return with_them != without

    def spelled(self, messages: Sequence[Message]) -> list[Message]:
        """The same messages, arguments of calls as text where the template wants them so."""
        if not any("tool_calls" in message for message in messages):
            return list(messages)
        if self._as_text is None:
            self._as_text = self._wants_text()
        return [_with_text(message) for message in messages] if self._as_text else list(messages)

    def _wants_text(self) -> bool:
        """Whether a template writes arguments well as text only, as OpenAI's API has them."""
        return not self._writes_well({_PROBE: "x"}) and self._writes_well(f'{{"{_PROBE}": "x"}}')

    def _writes_well(self, arguments: Any) -> bool:
        call = {"type": "function", "function": {"name": "probe", "arguments": arguments}}
        asked: list[Message] = [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "", "tool_calls": [{"id": "call00001", **call}]},
            {"role": "tool", "content": "x", "name": "probe", "tool_call_id": "call00001"},
        ]
        text = self._text(asked, None, {})
        # Neither Python's own spelling nor text that was made JSON twice.
        wrong = (f"'{_PROBE}'", f'\\"{_PROBE}')
        return text is not None and _PROBE in text and not any(part in text for part in wrong)

    def _check_turn(
        self, text: str, messages: list[Message], at: int, tools: Tools, settings: Settings
    ) -> None:
        """Whether a turn left a trace: looked for once for each kind of turn."""
        message = messages[at]
        calls = "tool_calls" in message
        kind = (message["role"] + " with calls" * calls, at == 0)
        if kind in self._written or (not calls and _is_there(message, text)):
            return
        other = {key: item for key, item in message.items() if key != "tool_calls"}
        if not calls:
            other["content"] = _PROBE
        if self._text([*messages[:at], other, *messages[at + 1 :]], tools, settings) == text:
            raise PromptError(_left_out(message))
        self._written.add(kind)

    def _text(self, messages: list[Message], tools: Tools, settings: Settings) -> str | None:
        """What the template writes; None where it refuses."""
        try:
            return self._render(messages, tools, settings).text
        except PromptError:
            return None


def check_settings(settings: Settings, source: str) -> None:
    """Raises PromptError where a template has no such setting."""
    for name in settings:
        if name in _RESERVED:
            raise PromptError(f"{name} cannot be set in chat_template_kwargs")
        if not re.search(rf"\b{re.escape(name)}\b", source):
            what = "switch for thinking" if name == "enable_thinking" else f"setting {name:.40}"
            raise PromptError(f"this verifier's chat template has no {what}")


def _is_there(message: Message, text: str) -> bool:
    """Templates shorten what the assistant said before, and write every user's turn."""
    if message["role"] == "user":
        return message["content"].strip() in text
    return bool(message["role"] == "assistant")


def _left_out(message: Message) -> str:
    if "tool_calls" in message:
        return "the chat template does not write the calls of tools"
    return f"the chat template leaves out a turn of the role {message['role']}"


def _with_text(message: Message) -> Message:
    if "tool_calls" not in message:
        return message
    calls = []
    for call in message["tool_calls"]:
        function = call["function"]
        text = json.dumps(function["arguments"], ensure_ascii=False)
        calls.append({**call, "function": {**function, "arguments": text}})
    return {**message, "tool_calls": calls}

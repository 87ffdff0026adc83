"""What a row says: a conversation for a chat template, or a text to be continued.

OpenAI's ``messages``, ShareGPT's ``conversations``, Alpaca's ``instruction`` and texts are read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .messages import Message, read_messages, refuse_media
from .values import Values

_CONVERSATIONS = ("messages", "conversations", "conversation", "instruction")
_ANSWERS = ("completion", "response", "answer", "output")
_LABELS = {"id", "category"}  # of a row: nobody needs them to answer it

_MOST_NAMED = 20

_ADVICE = 'expected "messages" or "prompt"'


@dataclass(frozen=True)
class Dialogue:
    """A row that can be asked.

    Attributes:
        messages: for the chat template; empty where there is a text.
        text: to be continued.
        answer: how a text goes on, where the row says it.
        tools: functions that the assistant may call, as OpenAI's API has them.
        settings: the chat template's own (``chat_template_kwargs``).
        unused: names of fields that nobody reads.
    """

    messages: tuple[Message, ...] = ()
    text: str = ""
    answer: str = ""
    tools: list[dict[str, Any]] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()


def read_dialogue(value: Any) -> Dialogue:
    """The dialogue of a row; a list is one of messages, a text a user's turn.

    Raises:
        ValueError: why the row cannot be asked, in words that rows of a kind share.
    """
    if isinstance(value, str):
        return Dialogue(messages=({"role": "user", "content": value},))
    if isinstance(value, list):
        return Dialogue(messages=read_messages(value))
    if not isinstance(value, dict):
        raise ValueError(f"{_ADVICE}, found {value!r:.40}")
    return _Fields(value).dialogue()


def unused_fields(dialogues: Iterable[Dialogue]) -> str:
    """What to say of fields that nobody reads; empty where there are none."""
    counts = Counter(name for dialogue in dialogues for name in dialogue.unused)
    named = ", ".join(f"{name} ({n} rows)" for name, n in counts.most_common(_MOST_NAMED))
    more = ", ..." * (len(counts) > _MOST_NAMED)
    return f"fields that nobody reads: {named}{more}" if counts else ""


class _Fields:
    """The fields of a row, and which of them were read."""

    def __init__(self, row: dict[str, Any]) -> None:
        self._row = {name: item for name, item in row.items() if item is not None}
        self._read: set[str] = set()

    def dialogue(self) -> Dialogue:
        refuse_media(self._row)
        form = self._form()
        tools, settings = self._tools(), self._settings()
        if form == "prompt":
            messages, text, answer = self._prompt()
        else:
            messages, text, answer = self._conversation(form), "", ""
        unused = set(self._row) - self._read - _LABELS
        if isinstance(self._row.get("answer"), dict):  # the check of a suite
            unused.discard("answer")
        return Dialogue(messages, text, answer, tools, settings, tuple(sorted(unused)))

    def _take(self, *names: str) -> Any:
        """The first of these fields that is there."""
        found = next((name for name in names if name in self._row), None)
        if found is None:
            return None
        self._read.add(found)
        return self._row[found]

    def _form(self) -> str:
        forms = [name for name in (*_CONVERSATIONS, "prompt") if name in self._row]
        if not forms:
            found = ", ".join(self._row) or "nothing"
            raise ValueError(f"{_ADVICE}, found {found:.80}")
        if len(forms) == 2 and forms[1] == "prompt" and self._prompt_is_in(forms[0]):
            self._read.add("prompt")
        elif len(forms) > 1:
            raise ValueError(f'expected one of "{forms[0]}" and "{forms[1]}", found both')
        return forms[0]

    def _prompt_is_in(self, form: str) -> bool:
        """Whether the prompt only says again what the first user's turn is."""
        if form == "instruction":
            return False
        users = (m for m in read_messages(self._row[form]) if m["role"] == "user")
        first = next(users, None)
        return first is not None and bool(first["content"] == self._row["prompt"])

    def _conversation(self, form: str) -> tuple[Message, ...]:
        messages = self._alpaca() if form == "instruction" else read_messages(self._take(form))
        system = self._take("system")
        if system is None or system == "":
            return messages
        if messages[0]["role"] == "system":
            raise ValueError("a system message in the row, and one among its messages")
        return (*read_messages([{"role": "system", "content": system}]), *messages)

    def _alpaca(self) -> tuple[Message, ...]:
        asked = [self._take("instruction"), self._take("input") or ""]
        if not all(isinstance(text, str) for text in asked) or not any(map(str.strip, asked)):
            raise ValueError('"instruction" or "input" is no text')
        turns = [turn for pair in self._take("history") or [] for turn in _pair(pair)]
        turns.append({"role": "user", "content": "\n\n".join(filter(str.strip, asked))})
        answer = self._take("output")
        if answer not in (None, ""):
            turns.append({"role": "assistant", "content": answer})
        return read_messages(turns)

    def _prompt(self) -> tuple[tuple[Message, ...], str, str]:
        prompt = self._take("prompt")
        kinds = (str, list) if isinstance(prompt, list) else (str,)
        answer = self._take(*(n for n in _ANSWERS if isinstance(self._row.get(n), kinds)))
        if isinstance(prompt, list):
            turns = answer if isinstance(answer, list) else _turns(answer)
            return read_messages([*prompt, *turns]), "", ""
        if not isinstance(prompt, str) or not prompt:
            raise ValueError(f'"prompt" is {prompt!r:.40}, expected a text')
        if self._row.get("system"):
            raise ValueError('"system" beside a text to be continued: expected "messages"')
        return (), prompt, answer or ""

    def _tools(self) -> list[dict[str, Any]] | None:
        tools = self._take("tools")
        if isinstance(tools, str):
            tools = Values().only(tools) if tools.strip() else None
        if not tools:
            return None
        if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
            raise ValueError('"tools" is no list of objects')
        return tools

    def _settings(self) -> Mapping[str, Any]:
        settings = self._take("chat_template_kwargs") or {}
        if not isinstance(settings, dict):
            raise ValueError('"chat_template_kwargs" is no object')
        return settings


def _pair(pair: Any) -> list[Message]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise ValueError('"history" is no list of questions with their answers')
    return [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]


def _turns(answer: Any) -> list[Message]:
    return [] if answer in (None, "") else [{"role": "assistant", "content": answer}]

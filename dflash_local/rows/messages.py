"""Messages as a chat template takes them, from the ways in which people write them."""

from __future__ import annotations

import json
from typing import Any

Message = dict[str, Any]

EXPECTED = 'expected messages with "role" and "content"'

#: What roles are called elsewhere.
_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "ipython": "tool",
}
_KNOWN = {"system", "developer", "user", "assistant", "tool"}
_CALL = "function_call"  # a role of ShareGPT's, and a field of OpenAI's before there were tools
_MEDIA = ("image", "images", "audio", "audios", "video", "videos")
_TEXT_PARTS = {"text", "input_text", "output_text"}


def read_messages(value: Any) -> tuple[Message, ...]:
    """Messages with the roles system, developer, user, assistant and tool, and texts as contents.

    Tool calls are OpenAI's, with their arguments as objects, as templates want them. Other fields
    stay: a template may know them.

    Raises:
        ValueError: says what is no message, or none that a template can be given.
    """
    if not isinstance(value, list) or not value:
        raise ValueError(EXPECTED)
    return tuple(_message(item) for item in value)


def refuse_media(fields: dict[str, Any]) -> None:
    """Raises ValueError where a row or a message has a picture, or what is like it, beside it."""
    for name in _MEDIA:
        if fields.get(name):
            raise ValueError(f'"{name}" beside the text, which no drafter reads')


def _message(value: Any) -> Message:
    if not isinstance(value, dict):
        raise ValueError(EXPECTED)
    fields = {key: item for key, item in value.items() if item is not None}
    refuse_media(fields)
    said = fields.pop("role", fields.pop("from", None))
    if not isinstance(said, str):
        raise ValueError(EXPECTED)
    content = fields.pop("content", fields.pop("value", None))
    calls = fields.pop("tool_calls", None) or []
    if said == _CALL:
        said, content, calls = "assistant", None, content
    elif call := fields.pop(_CALL, None):
        calls = [call]
    role = _role(said)
    message: Message = {"role": role, "content": "", **fields}
    if calls:
        message["tool_calls"] = _calls(calls)
    if content is None and not calls:
        raise ValueError(_no_content(role, value))
    message["content"] = "" if content is None else _text(content)
    return message


def _role(said: str) -> str:
    role = said.strip().lower()
    role = _ROLES.get(role, role)
    if role not in _KNOWN:
        raise ValueError(f"a turn of the role {said:.40}, expected user, assistant, system or tool")
    return role


def _no_content(role: str, value: dict[str, Any]) -> str:
    named = "content" in value or "value" in value
    return f"a turn of the role {role} without content" if named else EXPECTED


def _text(content: Any) -> str:
    """A content's text; parts of it stand on lines of their own, as servers put them."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content:
        return "\n".join(map(_part, content))
    raise ValueError(f"a content that is {_kind(content)}, expected text")


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, dict) else _kind(part)
    text = part.get("text") if isinstance(part, dict) else None
    if kind not in _TEXT_PARTS or not isinstance(text, str):
        raise ValueError(f"a content with a part that is {kind!s:.40}, expected text")
    return text


def _calls(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, str):
        value = _parsed(value)
    calls = value if isinstance(value, list) else [value]
    return [_call(call) for call in calls]


def _call(value: Any) -> dict[str, Any]:
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError("a tool call without the name of a function")
    arguments = function.get("arguments")
    arguments = _parsed(arguments or "{}") if isinstance(arguments or "", str) else arguments
    if not isinstance(arguments, dict):
        raise ValueError("a tool call whose arguments are no JSON object")
    call = {"type": "function", "function": {**function, "arguments": arguments}}
    outer = {key: item for key, item in value.items() if item is not None}
    return {**outer, **call} if function is not value else call


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("a tool call that is no JSON") from None


def _kind(value: Any) -> str:
    """What JSON calls it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return "an object" if isinstance(value, dict) else "an empty list"

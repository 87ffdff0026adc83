"""The prompts that are asked: the suite of this package, or a file of the user's own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dflash_local.errors import DFlashError

from .checks import Check, read_check

#: Suites in this package, by name.
SUITES = {"default": Path(__file__).parent / "prompts" / "default.jsonl"}

Message = dict[str, Any]


@dataclass(frozen=True)
class Prompt:
    """One prompt: ``messages`` for the verifier's chat template, or ``text`` to be continued."""

    id: str
    category: str
    messages: tuple[Message, ...] = ()
    text: str = ""
    check: Check | None = None


def load_prompts(path: Path) -> list[Prompt]:
    """Prompts of a JSONL file: a line is an object with "messages" or "prompt".

    "id", "category" and "answer" (see ``read_check``) may be there too.

    Raises:
        DFlashError: lists everything that is wrong with the file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DFlashError(f"{path}: cannot be read ({error}); expected a JSONL file") from error
    prompts, problems = [], []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            prompts.append(_prompt(json.loads(line), number))
        except (ValueError, re.error) as error:
            problems.append(f"line {number}: {error}")
    problems += _repeated(prompts)
    if not prompts and not problems:
        problems.append("there is no prompt in it")
    if problems:
        lines = "".join(f"\n  - {problem}" for problem in problems)
        raise DFlashError(f"{path}: not a file of prompts:{lines}")
    return prompts


def first_of_each(prompts: Sequence[Prompt], per_category: int) -> list[Prompt]:
    """The first ``per_category`` prompts of each category, in their order."""
    seen: dict[str, int] = {}
    chosen = []
    for prompt in prompts:
        seen[prompt.category] = seen.get(prompt.category, 0) + 1
        if seen[prompt.category] <= per_category:
            chosen.append(prompt)
    return chosen


def categories(prompts: Sequence[Prompt]) -> list[str]:
    """In the order in which they first come up."""
    return list(dict.fromkeys(prompt.category for prompt in prompts))


def _prompt(row: Any, number: int) -> Prompt:
    if not isinstance(row, Mapping):
        raise ValueError(f"found {type(row).__name__}, expected an object")
    messages, text = row.get("messages"), row.get("prompt")
    if (messages is None) == (text is None):
        raise ValueError('expected one of "messages" (a list) and "prompt" (a text)')
    if text is not None and (not isinstance(text, str) or not text):
        raise ValueError(f'"prompt" is {text!r}, expected a text')
    return Prompt(
        id=str(row.get("id", f"prompt-{number}")),
        category=str(row.get("category", "own")),
        messages=() if messages is None else _messages(messages),
        text=text or "",
        check=read_check(row["answer"]) if row.get("answer") else None,
    )


def _messages(messages: Any) -> tuple[Message, ...]:
    if not isinstance(messages, list) or not messages:
        raise ValueError('"messages" holds nothing, expected a list of messages')
    for message in messages:
        if not isinstance(message, dict) or not {"role", "content"} <= set(message):
            raise ValueError(f'message {message!r}: expected an object with "role" and "content"')
    if messages[-1]["role"] == "assistant":
        raise ValueError("the last message is the assistant's: there is nothing to answer")
    return tuple(messages)


def _repeated(prompts: Sequence[Prompt]) -> list[str]:
    ids = [prompt.id for prompt in prompts]
    return [f"the id {i!r} is there more than once" for i in dict.fromkeys(ids) if ids.count(i) > 1]

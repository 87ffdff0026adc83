"""The prompts that are asked: the suite of this package, or a file of the user's own."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dflash_local.errors import DFlashError
from dflash_local.rows.dialogue import Dialogue, read_dialogue, unused_fields
from dflash_local.rows.faithful import Settings, Tools
from dflash_local.rows.messages import Message
from dflash_local.rows.reader import Row, read_rows

from .checks import Check, read_check

#: Suites in this package, by name.
SUITES = {"default": Path(__file__).parent / "prompts" / "default.jsonl"}


@dataclass(frozen=True)
class Prompt:
    """One prompt: ``messages`` for the verifier's chat template, or ``text`` to be continued.

    Attributes:
        tools: that the template is told of.
        settings: of the template.
    """

    id: str
    category: str
    messages: tuple[Message, ...] = ()
    text: str = ""
    check: Check | None = None
    tools: Tools = None
    settings: Settings = field(default_factory=dict)


def load_prompts(path: Path) -> list[Prompt]:
    """Prompts of a file, see ``read_rows`` and ``read_dialogue``.

    "id", "category" and "answer" (see ``read_check``) may be there too.

    Raises:
        DFlashError: lists everything that is wrong with the file.
    """
    prompts, dialogues, problems = [], [], []
    for row in read_rows(path):
        try:
            dialogues.append(_dialogue(row))
            prompts.append(_prompt(row, dialogues[-1]))
        except (ValueError, re.error) as error:
            problems.append(f"{row.where}: {error}")
    problems += _repeated(prompts)
    if not prompts and not problems:
        problems.append("there is no prompt in it")
    if problems:
        lines = "".join(f"\n  - {problem}" for problem in problems)
        raise DFlashError(f"{path}: not a file of prompts:{lines}")
    if unused := unused_fields(dialogues):
        warnings.warn(f"{path.name}: {unused}", stacklevel=2)
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


def from_all_categories(prompts: Sequence[Prompt], n: int) -> list[Prompt]:
    """``n`` prompts at most: the first of each category, then the second ones."""
    seen: Counter[str] = Counter()
    ranked = []
    for prompt in prompts:
        ranked.append((seen[prompt.category], prompt))
        seen[prompt.category] += 1
    return [prompt for _, prompt in sorted(ranked, key=lambda known: known[0])[:n]]


def categories(prompts: Sequence[Prompt]) -> list[str]:
    """In the order in which they first come up."""
    return list(dict.fromkeys(prompt.category for prompt in prompts))


def _dialogue(row: Row) -> Dialogue:
    if row.problem:
        raise ValueError(row.problem)
    dialogue = read_dialogue(row.value)
    if dialogue.messages and dialogue.messages[-1]["role"] == "assistant":
        raise ValueError("the last message is the assistant's: there is nothing to answer")
    return dialogue


def _prompt(row: Row, dialogue: Dialogue) -> Prompt:
    fields = row.value if isinstance(row.value, dict) else {}
    return Prompt(
        id=str(fields.get("id", f"prompt-{row.number}")),
        category=str(fields.get("category", "own")),
        messages=dialogue.messages,
        text=dialogue.text,
        check=read_check(fields["answer"]) if fields.get("answer") else None,
        tools=dialogue.tools,
        settings=dialogue.settings,
    )


def _repeated(prompts: Sequence[Prompt]) -> list[str]:
    ids = [prompt.id for prompt in prompts]
    return [f"the id {i!r} is there more than once" for i in dict.fromkeys(ids) if ids.count(i) > 1]

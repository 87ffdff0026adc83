"""The folder of a training: what is done already is found there and not done again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dflash_local import hub
from dflash_local.errors import DFlashError

from .conversations import Conversation, read_conversations, to_line
from .options import TrainOptions
from .verifier import Verifier


class Workspace:
    """``OUT/work``: prompts, conversations, readings and the state of the fit.

    Raises:
        DFlashError: the folder is of a training with other settings.
    """

    def __init__(self, options: TrainOptions, verifier: Verifier) -> None:
        self.out = options.out
        self.folder = options.out / "work"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.prompts = self.folder / "prompts.jsonl"
        self.conversations = self.folder / "conversations.jsonl"
        self.readings = self.folder / "readings"
        self.simulation = self.folder / "simulation.json"
        settings = _settings(options, verifier)
        _check_settings(self.folder / "settings.json", settings)

    def write_lines(self, path: Path, lines: Iterable[str]) -> None:
        """A file that is whole or not there."""
        part = path.with_suffix(".part")
        part.write_text("".join(lines), encoding="utf-8")
        part.replace(path)

    def read_prompts(self) -> list[list[int]]:
        """Prompts as tokens, in the order they are answered."""
        return [json.loads(line) for line in self.prompts.read_text("utf-8").splitlines()]

    def read_conversations(self) -> list[Conversation]:
        """All that are whole."""
        return read_conversations(self.conversations) if self.conversations.is_file() else []

    def append(self, conversations: Iterable[Conversation]) -> None:
        """Adds a group of answers: all of them, or, where this is interrupted, none."""
        kept = self.conversations.read_text("utf-8") if self.conversations.is_file() else ""
        self.write_lines(self.conversations, [kept, *map(to_line, conversations)])


def _settings(options: TrainOptions, verifier: Verifier) -> dict[str, Any]:
    """What must not change between two runs in one folder."""
    named: dict[str, Any] = json.loads(json.dumps(asdict(options), default=_name))
    for free in ("out", "threads", "gpu_layers", "cache_gb", "outtype", "force", "gguf"):
        del named[free]
    del named["fit"]["steps"], named["fit"]["patience"]
    named["verifier"] = verifier.identity.fingerprint
    return named


def _name(value: object) -> str:
    if isinstance(value, Path):
        return hub.fingerprint(value) if value.is_file() else value.name
    raise TypeError(f"{value!r} has no JSON form")


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    if not path.is_file():
        part = path.with_suffix(".part")
        part.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
        part.replace(path)
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = list(_differences(before, settings))
    if changed:
        lines = "".join(f"\n  - {line}" for line in changed)
        raise DFlashError(
            f"{path.parent} is of a training with other settings:{lines}\n"
            "Go on with the same ones, or choose another --out"
        )


def _differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            yield from _differences(before.get(key), now.get(key), f"{name} {key}".strip())
    elif before != now:
        yield f"{name}: {before!r} then, {now!r} now"

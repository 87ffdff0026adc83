"""The folder of a training: what is done already is found there and not done again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dflash_local import hub
from dflash_local.errors import DFlashError

from .conversations import Conversation, parse, to_line
from .options import TrainOptions
from .verifier import Verifier

# Options that may change between two runs in one folder.
_FREE = ("out", "threads", "gpu_layers", "cache_gb", "outtype", "draft_vocab", "force", "gguf")


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
        # The folder's name becomes the GGUF's.
        self.export = self.folder / "export" / options.out.resolve().name
        self.simulation = self.folder / "simulation.json"
        settings = _settings(options, verifier)
        _check_settings(self.folder / "settings.json", settings)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps other runs out of the folder.

        Raises:
            DFlashError: one is in it.
        """
        lock = FileLock(self.folder / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise DFlashError(
                f"{self.folder}: another training is at work here: wait for it, stop it, or choose "
                "another --out"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def write_lines(self, path: Path, lines: Iterable[str]) -> None:
        """A file that is whole or not there."""
        part = path.with_suffix(".part")
        part.write_text("".join(lines), encoding="utf-8")
        part.replace(path)

    def read_prompts(self) -> list[list[int]]:
        """Prompts as tokens, in the order they are answered."""
        return [json.loads(line) for line in self.prompts.read_text("utf-8").splitlines()]

    def read_conversations(self) -> list[Conversation]:
        """All that are whole: a line that an interruption cut off is left out."""
        if not self.conversations.is_file():
            return []
        *whole, _torn = self.conversations.read_text("utf-8").split("\n")
        return list(parse(self.conversations, whole))

    def keep_conversations(self, n: int) -> None:
        """Cuts off what stands behind the first ``n``."""
        if not self.conversations.is_file():
            return
        with self.conversations.open("r+b") as file:
            file.truncate(sum(len(line) for line in islice(file, n)))

    def append(self, conversations: Iterable[Conversation]) -> None:
        """Adds answers; an interruption may leave a part of them."""
        with self.conversations.open("ab") as file:
            file.write("".join(map(to_line, conversations)).encode())


def _settings(options: TrainOptions, verifier: Verifier) -> dict[str, Any]:
    """What must not change between two runs in one folder."""
    named: dict[str, Any] = json.loads(json.dumps(asdict(options), default=_name))
    for free in _FREE:
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

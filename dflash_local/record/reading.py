"""What a record holds, read back."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dflash_local.errors import DFlashError

from .folder import is_record, segments_of
from .source import Source


@dataclass(frozen=True)
class Recorded:
    """An answer and what was asked.

    Attributes:
        source: key of what it is an answer of.
        tokens: of prompt and answer.
        start: index of the answer's first token.
        ended: the model ended it.
    """

    source: str
    tokens: tuple[int, ...]
    start: int
    ended: bool


@dataclass(frozen=True)
class Record:
    """All that a folder holds.

    Attributes:
        answers: the oldest first.
        sources: by their keys.
        n_spoiled: lines that are none: a process died while it wrote them.
    """

    answers: list[Recorded]
    sources: dict[str, Source]
    n_spoiled: int


def read_record(folder: Path, most: int | None = None) -> Record:
    """Reads a folder in which answers were recorded.

    Args:
        most: answers, the newest; those in the file that the last of them is in come with it. None:
            all, which may take gigabytes.

    Raises:
        DFlashError: it is no such folder.
    """
    if not is_record(folder):
        raise DFlashError(
            f"{folder}: no answers were recorded here. Record some first, by "
            "Llama(..., record=FOLDER) or `dflash-local chat --record FOLDER`"
        )
    sources = dict(_sources(folder / "models"))
    found: list[Recorded | None] = []
    for path in reversed(segments_of(folder)):
        found[:0] = map(_answer, _lines(path))
        if most is not None and len(found) >= most:
            break
    answers = [one for one in found if one is not None and one.source in sources]
    return Record(answers, sources, len(found) - len(answers))


def _sources(folder: Path) -> Iterator[tuple[str, Source]]:
    for path in sorted(folder.glob("*.json")):
        with contextlib.suppress(ValueError, TypeError):
            yield path.stem, Source(**json.loads(path.read_text(encoding="utf-8")))


def _lines(path: Path) -> Iterator[bytes]:
    try:
        yield from (line for line in path.read_bytes().split(b"\n") if line)
    except FileNotFoundError:
        return  # it was the oldest


def _answer(line: bytes) -> Recorded | None:
    try:
        row: dict[str, Any] = json.loads(line)
        tokens, start = tuple(row["tokens"]), row["start"]
        good = 0 < start < len(tokens) and all(type(t) is int and t >= 0 for t in tokens)
        return Recorded(row["source"], tokens, start, bool(row["ended"])) if good else None
    except (ValueError, TypeError, KeyError):
        return None

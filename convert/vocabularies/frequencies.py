"""How often a verifier says each token: a small file of counts.

Two forms are read: lines of two columns, token id and count, parted by white space or a comma, and
a JSON object ``{"id": count}``. The first is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dflash_local.errors import DFlashError

Counts = npt.NDArray[np.int64]

MAX_PROBLEMS = 10  # of a file, then reading stops
_MAX_BYTES = 1 << 24  # of a file: ten for each token of a large vocabulary take a fifth of it
_MAX_COUNT = 1 << 40  # a sum over a vocabulary of them is still an int64


def read_frequencies(path: Path, n_vocab: int) -> Counts:
    """The counts in a file, one for each token of the vocabulary, 0 where it names none.

    Raises:
        DFlashError: lists what is wrong with the file.
    """
    counts = np.zeros(n_vocab, np.int64)
    seen: set[int] = set()

    def take(where: str, token: Any, count: Any) -> str | None:
        number, times = _natural(token), _natural(count)
        if number is None or times is None or times > _MAX_COUNT:
            return f"{where}: found {f'{token} {count}'[:60]!r}, expected a token id and a count"
        if number >= n_vocab:
            return f"{where}: found token {number}, expected an id below {n_vocab}"
        if number in seen:
            return f"{where}: token {number} is there twice"
        seen.add(number)
        counts[number] = times
        return None

    refuse(path, (take(*entry) for entry in _entries(path)))
    if not counts.any():
        raise DFlashError(f"{path} counts no tokens; expected lines of a token id and a count")
    return counts


def write_frequencies(path: Path, counts: Counts) -> None:
    """Write the counts that are not 0, in order of id.

    Raises:
        OSError: the file cannot be written.
    """
    lines = (f"{token}\t{counts[token]}\n" for token in np.flatnonzero(counts))
    path.write_text("".join(lines), encoding="utf-8")


def refuse(path: Path, results: Iterable[str | None]) -> None:
    """Raise one DFlashError with the problems among the results; after a few it looks no further.

    Raises:
        DFlashError: there is a problem.
    """
    problems: list[str] = []
    for problem in results:
        if problem is not None:
            problems.append(problem)
        if len(problems) == MAX_PROBLEMS:
            problems.append("(there may be more)")
            break
    if problems:
        raise DFlashError("\n  - ".join([f"{path} cannot be used:", *problems]))


def _entries(path: Path) -> Iterator[tuple[str, Any, Any]]:
    """(where it stands, token, count) of a file's entries."""
    text = _read(path)
    if text.lstrip().startswith("{"):
        for token, count in _json_pairs(path, text):
            yield "entry", token, count
        return
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.replace(",", " ").split()
        if fields:
            token, count = fields if len(fields) == 2 else (line.strip(), "")
            yield f"line {number}", token, count


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise DFlashError(f"{path}: more than {_MAX_BYTES} bytes; expected counts of tokens")
        return data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DFlashError(f"{path} cannot be read: {error}") from error


def _json_pairs(path: Path, text: str) -> list[tuple[str, Any]]:
    try:
        # As pairs: a name that is there twice must not vanish.
        pairs: list[tuple[str, Any]] = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError) as error:
        raise DFlashError(f"{path} is not valid JSON: {error}") from None
    return pairs


def _natural(value: Any) -> int | None:
    if isinstance(value, str):
        short = value.isascii() and value.isdigit() and len(value) < 20
        return int(value) if short else None
    return value if type(value) is int and value >= 0 else None

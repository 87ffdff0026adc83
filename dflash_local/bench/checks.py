"""Whether an answer is right, where that can be told without a judge."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

#: Takes the text of an answer.
Check = Callable[[str], bool]

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def read_check(answer: Any) -> Check:
    """The check an "answer" of a suite file describes.

    {"number": 42}: the last number in the answer. {"regex": "..."}: found somewhere in it.
    {"json": {...}}: the first JSON object in it has these fields; texts compare without case,
    numbers by value.

    Raises:
        ValueError: it describes none. re.error: the pattern is none.
    """
    if not isinstance(answer, Mapping) or len(answer) != 1:
        raise ValueError(f'"answer" is {answer!r}, expected one of number, regex and json')
    ((kind, wanted),) = answer.items()
    if kind == "number" and isinstance(wanted, (int, float)):
        return lambda text: last_number(text) == wanted
    if kind == "regex" and isinstance(wanted, str):
        pattern = re.compile(wanted)
        return lambda text: pattern.search(text) is not None
    if kind == "json" and isinstance(wanted, Mapping):
        return lambda text: _has_fields(text, wanted)
    raise ValueError(f'"answer" is {answer!r}, expected a number, a regex or an object for json')


def last_number(text: str) -> float | None:
    """The last number in a text; commas in it separate thousands."""
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def first_object(text: str) -> dict[str, Any] | None:
    """The first JSON object in a text, whatever stands around it."""
    decoder = json.JSONDecoder()
    for start in _braces(text):
        try:
            value, _ = decoder.raw_decode(text, start)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    return None


def _braces(text: str) -> Iterator[int]:
    return (match.start() for match in re.finditer(r"\{", text))


def _has_fields(text: str, wanted: Mapping[str, Any]) -> bool:
    found = first_object(text)
    return found is not None and all(
        key in found and _plain(found[key]) == _plain(value) for key, value in wanted.items()
    )


def _plain(value: Any) -> Any:
    """Numbers written as texts are numbers; case and outer spaces do not count."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        text = value.strip().casefold()
        return float(text) if _NUMBER.fullmatch(text) and "," not in text else text
    return value

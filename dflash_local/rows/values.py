"""JSON values: one of a text, or one after another where they go over lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

from .lines import MAX_LINE

_SPACE = " \t\n\r"
_CHUNK = 1 << 16
# As Python has it where bytes were no UTF-8, and as JSON spells it: together they may be whole.
_HALF_PAIR = re.compile(r"[\ud800-\udfff]|\\u[dD][89a-fA-F]")


class Values:
    """Decodes JSON as those write it who make data: NaN and Infinity read as null.

    A name that occurs twice in an object, half a surrogate pair, or nesting without end is an
    error: what such a value means nobody can tell.
    """

    def __init__(self) -> None:
        self._twice: list[str] = []
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_constant=lambda _: None
        )

    def decode(self, text: str, at: int = 0) -> tuple[Any, int]:
        """The value that begins at an index, and the index behind it; raises ValueError."""
        self._twice.clear()
        try:
            value, end = self._decoder.raw_decode(text, at)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        if self._twice:
            raise AmbiguousError(f"the name {self._twice[0]:.40} occurs twice in an object", end)
        if _HALF_PAIR.search(text, at, end) and not _is_unicode(value):
            raise AmbiguousError("half a surrogate pair, which is no text", end)
        return value, end

    def only(self, text: str) -> Any:
        """The one value of a text; raises ValueError with a reason that names no place."""
        try:
            value, end = self.decode(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"no JSON ({error.msg})") from None
        if text[end:].strip():
            raise ValueError("no JSON (something stands behind the value)")
        return value

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) != len(pairs):
            names = [name for name, _ in pairs]
            self._twice.append(next(name for name in names if names.count(name) > 1))
        return values


class AmbiguousError(ValueError):
    """A value that is JSON and cannot be used; ``end`` is the index behind it."""

    def __init__(self, reason: str, end: int) -> None:
        super().__init__(reason)
        self.end = end


def _is_unicode(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


class Document:
    """Values that follow each other in a text, of which only as much is held as one takes.

    An array at the top is not a value but many, unless ``is_one`` says of its first item that it
    belongs to a whole.
    """

    def __init__(self, text: TextIO, is_one: Any) -> None:
        self._file = text
        self._is_one = is_one
        self._values = Values()
        self._text, self._at = "", 0

    def __iter__(self) -> Iterator[tuple[Any, str]]:
        """Values with the text they stand in; a ValueError in place of one that is ambiguous.

        Raises:
            ValueError: no further value can be read.
        """
        while mark := self._next(_SPACE + "\ufeff"):
            if mark == "[":
                yield from self._items()
            else:
                yield self._take()
            self._forget()

    def _items(self) -> Iterator[tuple[Any, str]]:
        start = self._at
        self._at += 1
        first = True
        while (mark := self._next(_SPACE + ",")) != "]":
            if not mark:
                raise ValueError("no JSON (an array without an end)")
            value, text = self._take()
            if first and self._is_one(value):
                self._at = start
                yield self._take()
                return
            first = False
            yield value, text
            self._forget()
        self._at += 1

    def _take(self) -> tuple[Any, str]:
        start = self._at
        value = self._value()
        return value, self._text[start : self._at]

    def _value(self) -> Any:
        while True:
            try:
                value, end = self._values.decode(self._text, self._at)
            except AmbiguousError as error:
                self._at = error.end
                return error
            except json.JSONDecodeError as error:
                if not self._more():
                    raise ValueError(f"no JSON ({error.msg})") from None
                continue
            if end < len(self._text) or not self._more():  # a number may go on behind a chunk
                self._at = end
                return value

    def _next(self, skipped: str) -> str:
        """The next character that is none of these; empty at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in skipped:
                    return self._text[self._at]
                self._at += 1
            if not self._more():
                return ""

    def _more(self) -> bool:
        """Reads on, as much again as is held, so that a long value is not begun too often."""
        held = len(self._text) - self._at
        if held > MAX_LINE:
            raise ValueError(f"a value of more than {MAX_LINE} characters")
        chunk = self._file.read(max(_CHUNK, held))
        self._text += chunk
        return bool(chunk)

    def _forget(self) -> None:
        if self._at > _CHUNK:
            self._text, self._at = self._text[self._at :], 0

"""The lines of a file: whatever it is packed with, encoded in, and however long they are."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from dflash_local.errors import DFlashError

#: Characters of the longest line; far above a conversation, far below what a small .gz can hold.
MAX_LINE = 1 << 24

_HEAD = 1000  # characters that are kept of a longer one, and bytes that an encoding is told by
_BETWEEN = 1 << 18  # characters between two looks at progress
_GZIP = b"\x1f\x8b"
_PACKED = {b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
_BOM = "\ufeff"
_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_MOSTLY = 0.7

#: (bytes of the file that were read, bytes in all)
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Line:
    """A line with its end, if it has one; ``problem`` says why it cannot be used."""

    number: int
    text: str
    problem: str = ""


def read_lines(path: Path, progress: Progress | None = None) -> Iterator[Line]:
    r"""The lines of a text file in UTF-8, or in UTF-16 or UTF-32 that can be told as such.

    Only ``\n`` ends a line. Byte-order marks are dropped wherever a line begins, because files that
    have one are put together. gzip is told by what is in the file.

    Raises:
        DFlashError: the file cannot be read.
    """
    with reading(path), _opened(path) as (raw, text):
        size = path.stat().st_size if progress else 0
        number = n_chars = 0
        while line := text.readline(MAX_LINE + 1):
            number += 1
            n_chars += len(line)
            yield _line(number, line, text)
            if progress is not None and n_chars >= _BETWEEN:
                n_chars = 0
                progress(raw.tell(), size)
        if progress is not None:
            progress(raw.tell(), size)


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """The text of the same files, in one piece; raises DFlashError where it cannot be read."""
    with reading(path), _opened(path) as (_, text):
        yield text


def _line(number: int, line: str, text: TextIO) -> Line:
    if len(line) > MAX_LINE and not line.endswith("\n"):
        _skip_line(text)
        return Line(number, line[:_HEAD], f"a line of more than {MAX_LINE} characters")
    line = line.lstrip(_BOM)
    if line.isascii() or _is_unicode(line):
        return Line(number, line)
    return Line(number, line[:_HEAD].encode("utf-8", "replace").decode(), "bytes that are no utf-8")


def _skip_line(text: TextIO) -> None:
    while (more := text.readline(MAX_LINE)) and not more.endswith("\n"):
        pass


def _is_unicode(text: str) -> bool:
    """Whether it has no halves of surrogate pairs: bytes that were no UTF-8 become such."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What can go wrong with a file's bytes, as a DFlashError."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise DFlashError(f"{path} cannot be read: {error}; expected text in utf-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DFlashError(f"{path} cannot be read: {error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, TextIO]]:
    """The file, and the text in it."""
    with path.open("rb") as raw:
        head = raw.peek(8)
        for magic, name in _PACKED.items():
            if head.startswith(magic):
                raise DFlashError(f"{path} cannot be read: it is packed with {name}; unpack it")
        if path.suffix == ".gz" and not head.startswith(_GZIP):
            raise DFlashError(f"{path} cannot be read: its name says gzip, its bytes do not")
        data: Any = gzip.GzipFile(fileobj=raw) if head.startswith(_GZIP) else raw
        encoding = _encoding(data.peek(_HEAD)[: _HEAD // 8 * 8])
        errors = "surrogateescape" if encoding == "utf-8" else "strict"
        with io.TextIOWrapper(data, encoding, errors, newline="\n") as text:
            yield raw, text


def _encoding(head: bytes) -> str:
    """Of a file that begins so: by its mark, or by the zeros between most of its characters."""
    found = json.detect_encoding(head).removesuffix("-sig")
    if found == "utf-8" or head.startswith(_MARKS):
        return found
    characters = head.decode(found, "replace")
    n_ascii = sum("\0" < character <= "~" for character in characters)
    return found if n_ascii > _MOSTLY * len(characters) else "utf-8"

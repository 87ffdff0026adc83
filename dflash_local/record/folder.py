"""The folder of a record: its files are the user's alone, and the oldest go when it is full."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from pathlib import Path

#: Bytes of all answers together. An answer of 300 tokens takes about 2 KB.
MAX_BYTES = 256 << 20
#: What was learned from the answers, where the drafter in use may not be replaced itself.
LEARNED = "drafter.gguf"
_SEGMENTS = 16  # files that share them; the oldest is deleted as a whole
_README = "README"
_MARK = "dflash-local record"
_ANSWERS = re.compile(r"answers-(\d{8})\.jsonl")
_OURS = re.compile(
    r"\.?README|answers-\d{8}\.jsonl$|models$|\.at-work$"
)  # in a folder that is being made
_TEXT = """{mark}

This folder holds answers of language models, and what they were asked. A program was told to keep
them here: Llama(..., record=FOLDER), dflash-local chat --record, or dflash-local bench --record.
Nothing is sent anywhere. `dflash-local learn FOLDER` makes the drafter better by them.

What is kept of each finished answer: the tokens of the whole prompt and of the answer, which anyone
can turn back into text; the time; how it ended; the sampler's settings; which model, drafter and
chat template it is of, with the paths of the files. Answers that were broken off are not kept.

  answers-*.jsonl  the answers, a line each; {megabytes:.0f} MB at most, then the oldest are deleted
  models/          what they are answers of
  learning/        what `dflash-local learn` made of them, and its reports
  drafter.gguf     a drafter that learned from them, where its own file may not be replaced
  .at-work         its time says when a model last answered

To delete all of it, end the programs that write here and delete this folder. One that finds its
folder gone warns and records no more. To delete some of it, delete files answers-*.jsonl.
"""


class RecordFolder:
    """A folder of answers, made where there is none.

    Args:
        max_bytes: of all answers together.

    Raises:
        ValueError: the folder holds other things.
        OSError: it cannot be made or written to.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self.path = path
        self._max_bytes = max_bytes
        if not is_record(path):
            self._make()
        (path / "models").mkdir(mode=0o700, exist_ok=True)

    def _make(self) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Another process may be making it as well.
        if any(not _OURS.match(file.name) for file in self.path.iterdir()):
            raise ValueError(
                f"{self.path} holds other files: answers are recorded in a new folder, an empty "
                "one, or one that holds a record already"
            )
        self.path.chmod(stat.S_IRWXU)
        text = _TEXT.format(mark=_MARK, megabytes=self._max_bytes / 1e6)
        write_private(self.path / _README, text)

    def append(self, line: str) -> None:
        """Adds a line at the end of the newest file, in one write: other processes add theirs.

        Raises:
            OSError: it could not be written, or not all of it.
        """
        segments = self.segments()
        newest = segments[-1] if segments else self._next(segments)
        # An interrupted write of another process may have left half a line before this one.
        data = f"\n{line}\n".encode()
        with contextlib.closing(_Appending(newest)) as file:
            size = file.write(data)
        if size >= self._max_bytes // _SEGMENTS:
            self._next(segments)
            self._drop_oldest()

    def _next(self, segments: list[Path]) -> Path:
        """A new, empty file for answers; another process may have made it."""
        number = int(segments[-1].stem.partition("-")[2]) + 1 if segments else 1
        path = self.path / f"answers-{number:08}.jsonl"
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        return path

    def _drop_oldest(self) -> None:
        segments = self.segments()
        sizes = [_size(path) for path in segments]
        room = self._max_bytes - self._max_bytes // _SEGMENTS  # what is open grows
        while len(segments) > 1 and sum(sizes) > room:
            segments.pop(0).unlink(missing_ok=True)
            sizes.pop(0)

    def segments(self) -> list[Path]:
        """The files of answers, the oldest first."""
        return segments_of(self.path)


class _Appending:
    """A file at whose end every write goes as a whole."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
        self._path = path
        self._file = os.open(path, flags, 0o600)

    def write(self, data: bytes) -> int:
        """Gives the file's size after it."""
        n_written = os.write(self._file, data)
        if n_written < len(data):
            raise OSError(f"{self._path}: {n_written} of {len(data)} bytes could be written")
        return os.fstat(self._file).st_size

    def close(self) -> None:
        os.close(self._file)


def is_record(path: Path) -> bool:
    """Whether answers are recorded in a folder."""
    try:
        return (path / _README).read_text(encoding="utf-8").startswith(_MARK)
    except (OSError, UnicodeDecodeError):
        return False


def segments_of(path: Path) -> list[Path]:
    """The files of answers in a folder, the oldest first."""
    return sorted(file for file in path.iterdir() if _ANSWERS.fullmatch(file.name))


def write_private(path: Path, text: str) -> None:
    """Writes a file that is whole or not there, and that nobody else may read."""
    part = path.with_name(f".{path.name}-{secrets.token_hex(4)}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        with os.fdopen(os.open(part, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):  # another process was quicker
        return path.stat().st_size
    return 0

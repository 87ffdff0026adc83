"""The one reader of rows: a line each, an array, values over several lines, or parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dflash_local.errors import DFlashError

from .lines import Line, Progress, open_text, read_lines
from .parquet import is_parquet, read_parquet
from .values import Document, Values

_EXCERPT = 160  # characters of a row that are shown
_TABLES = (".csv", ".tsv")


@dataclass(frozen=True)
class Row:
    """One row of a file.

    Attributes:
        number: of the line, or of the row where rows are no lines, from 1.
        unit: "line" or "row".
        value: what JSON says; the text of a line of plain text.
        excerpt: the beginning of it as it stands in the file.
        problem: why it has no value; empty where it has one.
    """

    number: int
    unit: str
    value: Any
    excerpt: str
    problem: str = ""

    @property
    def where(self) -> str:
        """ "line 3", "row 3"."""
        return f"{self.unit} {self.number}"


def read_rows(
    path: Path, *, plain: bool = False, progress: Progress | None = None
) -> Iterator[Row]:
    """The rows of a file that are not empty, those too that cannot be used.

    Args:
        plain: a line that is no JSON is a row of plain text, unless it begins as JSON does.

    Raises:
        DFlashError: the file cannot be read, or its kind is none that has rows.
    """
    if path.suffix.lower() in _TABLES:
        raise DFlashError(f"{path}: {_table_advice(path)}")
    if is_parquet(path):
        rows = enumerate(read_parquet(path), 1)
        yield from (Row(i, "row", value, _excerpt(str(value))) for i, value in rows)
    elif path.is_file() and _goes_over_lines(path):
        yield from _document(path)
    else:
        values = Values()
        for line in read_lines(path, progress):
            if line.problem or line.text.strip():
                yield _row(line, values, plain)


def _row(line: Line, values: Values, plain: bool) -> Row:
    text = line.text.strip()
    at = (line.number, "line")
    if line.problem:
        return Row(*at, None, _excerpt(text), line.problem)
    if plain and text[0] not in '{["':
        return Row(*at, text, _excerpt(text))
    try:
        return Row(*at, values.only(text), _excerpt(text))
    except ValueError as error:
        if plain and text[0] == '"':
            return Row(*at, text, _excerpt(text))  # of plain text, a quotation
        return Row(*at, None, _excerpt(text), str(error))


def _goes_over_lines(path: Path) -> bool:
    """Whether a file is an array of rows, or has values of several lines."""
    first = next((line for line in read_lines(path) if line.text.strip()), None)
    if first is None or first.text.lstrip()[0] not in "{[":
        return False
    if first.problem and not first.text.lstrip().startswith("["):
        return False
    try:
        value, _ = Values().decode(first.text.strip())
    except json.JSONDecodeError:  # it may go on in the next line
        return _begins_as_document(path)
    except ValueError:
        return False
    return isinstance(value, list) and bool(value) and not _is_message(value[0])


def _begins_as_document(path: Path) -> bool:
    with open_text(path) as text:
        try:
            return next(iter(Document(text, _is_message)), None) is not None
        except ValueError:
            return False


def _document(path: Path) -> Iterator[Row]:
    number = 0
    with open_text(path) as text:
        try:
            for number, (value, part) in enumerate(Document(text, _is_message), 1):
                if isinstance(value, ValueError):
                    yield Row(number, "row", None, _excerpt(part), str(value))
                else:
                    yield Row(number, "row", value, _excerpt(part))
        except ValueError as error:
            raise DFlashError(
                f"{path}: row {number + 1}: {error}, and rows behind it cannot be told from it"
            ) from error


def _is_message(value: Any) -> bool:
    """Whether an array that begins so is a conversation, not one of rows."""
    return isinstance(value, dict) and ("role" in value or "from" in value)


def _excerpt(text: str) -> str:
    text = " ".join(text[: 2 * _EXCERPT].split())
    return text if len(text) <= _EXCERPT else text[: _EXCERPT - 3] + "..."


def _table_advice(path: Path) -> str:
    delimiter = ", delimiter='\\t'" if path.suffix.lower() == ".tsv" else ""
    return f"""expected a JSON object a line, found a table. Python converts it, with the names of \
its columns:
  import csv, json
  rows = csv.DictReader(open({path.name!r}, encoding="utf-8-sig", newline=""){delimiter})
  lines = [json.dumps({{"instruction": r["QUESTION"], "output": r["ANSWER"]}}) for r in rows]
  open("rows.jsonl", "w").write("\\n".join(lines))"""

"""Parquet files, read by Hugging Face's ``datasets``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dflash_local.errors import DFlashError

_MAGIC = b"PAR1"


def is_parquet(path: Path) -> bool:
    """Whether a file says that it is one; False for what is no plain file."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False  # whoever reads it tells


def read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    """Its rows, without the nulls that a table has wherever another row has something.

    Raises:
        DFlashError: ``datasets`` is not installed, or cannot read the file.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise DFlashError(
            f"{path} is a parquet file, and reading it needs `pip install 'dflash-local[parquet]'` "
            f"({error}). Or convert it where that is installed:\n"
            "  from datasets import load_dataset\n"
            f"  load_dataset('parquet', data_files={path.name!r})['train'].to_json('rows.jsonl')"
        ) from error
    try:
        # Streaming: nothing is copied to a cache.
        rows = load_dataset("parquet", data_files=str(path), split="train", streaming=True)
        yield from map(without_nulls, rows)
    except Exception as error:  # of datasets, pyarrow or the system: they share no base
        raise DFlashError(f"{path} cannot be read as parquet: {error}") from error


def without_nulls(value: Any) -> Any:
    """A value without the fields that are null, at any depth."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value

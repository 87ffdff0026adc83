"""JSON that others wrote: small, an object, unambiguous, and text that can be written again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dflash_local.errors import ModelError

# Thousands of tensors take a tenth of it; parsed, hostile JSON is forty times as large.
MAX_BYTES = 8 << 20


def read_json(path: Path) -> dict[str, Any]:
    """Parse a JSON file that must hold an object, with a byte-order mark or without.

    Raises:
        ModelError: it does not, is damaged, very large, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
        if (reason := no_content(text)) is not None:
            raise ModelError(f"{path} {reason}")
        return parse_object(text.decode(json.detect_encoding(text)).encode())
    except ModelError:
        raise
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from None


def no_content(start: bytes) -> str | None:
    """Why a file that begins so is not what its name says; None where nothing is known."""
    if not start:
        return "is empty: download it again"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`"
    return None


def parse_object(text: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ValueError: it is none, larger than `MAX_BYTES`, names something twice, is nested too
            deeply, or has texts that are no Unicode.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES} bytes")
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # half a surrogate pair: no Unicode
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}; expected a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name occurs twice")
    return values

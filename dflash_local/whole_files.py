"""Files that are whole or not there: written under another name, then renamed."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path, *, alone: bool = False) -> Iterator[Path]:
    """A name beside ``path`` to write to; what is there at the end takes the place of ``path``.

    A reader sees the old file or the new one. Whatever is raised, nothing partial stays behind.

    Args:
        alone: no other process writes the file. The name is always the same then, so that the next
            one writes over what a killed process left.
    """
    own = "" if alone else f".{secrets.token_hex(4)}"
    part = path.with_name(f".{path.name}{own}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, text: str, *, alone: bool = False) -> None:
    """Writes UTF-8 text, see ``whole_file``."""
    with whole_file(path, alone=alone) as part:
        part.write_text(text, encoding="utf-8")

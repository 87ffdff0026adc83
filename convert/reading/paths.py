"""Paths as users write them."""

from __future__ import annotations

import os
from pathlib import Path

from dflash_local.errors import ModelError


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path, with ``~`` written out.

    Raises:
        ModelError: nobody knows what ``~`` is; in a container a user may be a mere number.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ModelError(f"{path}: {error} Write the path in full, without ~") from error

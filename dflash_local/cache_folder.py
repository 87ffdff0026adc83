"""The user's cache folder: files that are made once and found again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .errors import ModelError


def cache_dir() -> Path:
    """The folder for files made once per user: $DFLASH_LOCAL_CACHE, else the platform's own.

    Raises:
        ModelError: nobody says where it is, and the user has no home folder.
    """
    own = os.environ.get("DFLASH_LOCAL_CACHE")
    try:
        return Path(own).expanduser() if own else _platform_cache() / "dflash-local"
    except RuntimeError as error:  # in a container a user may be a mere number
        raise ModelError(
            f"there is no place for the cache folder: {error} Set DFLASH_LOCAL_CACHE to a folder "
            "that can be written"
        ) from error


def _platform_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def has_file(path: Path) -> bool:
    """Whether a file is there that can be found; False in a folder that may not be searched."""
    try:
        return path.is_file()
    except OSError:
        return False

"""The user's folders: the cache, of files that are made once and found again, and the settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from .errors import ModelError


def cache_dir() -> Path:
    """The folder for files made once per user: $DFLASH_LOCAL_CACHE, else the platform's own.

    Raises:
        ModelError: nobody says where it is, and the user has no home folder.
    """
    return _folder("DFLASH_LOCAL_CACHE", _platform_cache, "cache folder")


def config_dir() -> Path:
    """The folder for what users wrote themselves: $DFLASH_LOCAL_CONFIG, else the platform's own.

    Raises:
        ModelError: as ``cache_dir``.
    """
    return _folder("DFLASH_LOCAL_CONFIG", _platform_config, "configuration folder")


def _folder(variable: str, platforms: Callable[[], Path], name: str) -> Path:
    own = os.environ.get(variable)
    try:
        return Path(own).expanduser() if own else platforms() / "dflash-local"
    except RuntimeError as error:  # in a container a user may be a mere number
        raise ModelError(
            f"there is no place for the {name}: {error} Set {variable} to a folder that can be "
            "written"
        ) from error


def _platform_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _platform_config() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def has_file(path: Path) -> bool:
    """Whether a file is there that can be found; False in a folder that may not be searched."""
    try:
        return path.is_file()
    except OSError:
        return False

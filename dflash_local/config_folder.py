"""The user's configuration folder: what they wrote themselves."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .errors import ModelError


def config_dir() -> Path:
    """$DFLASH_LOCAL_CONFIG, else ``dflash-local`` in the platform's own folder.

    Raises:
        ModelError: nobody says where it is, and the user has no home folder.
    """
    own = os.environ.get("DFLASH_LOCAL_CONFIG")
    try:
        return Path(own).expanduser() if own else _platform_config() / "dflash-local"
    except RuntimeError as error:  # in a container a user may be a mere number
        raise ModelError(
            f"there is no place for the configuration folder: {error} Set DFLASH_LOCAL_CONFIG to a "
            "folder"
        ) from error


def _platform_config() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")

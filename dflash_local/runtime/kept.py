"""Values that were found out on this machine, as small files in the user's cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dflash_local.errors import ModelError
from dflash_local.user_folders import cache_dir
from dflash_local.whole_files import write_whole


class Kept:
    """One file of JSON, whose name follows from everything that its values depend on.

    It is a cache: a file that cannot be read counts as missing, and one that cannot be written is
    not.

    Args:
        folder: its folder inside the cache folder.
        key: plain values, all that the kept values depend on.
    """

    def __init__(self, folder: str, key: Mapping[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self._file: Path | None = None
        with contextlib.suppress(ModelError):  # no home, no cache: nothing is kept
            self._file = cache_dir() / folder / f"{digest[:16]}.json"

    def read(self) -> Any:
        """The values that were written; None where there is no file, or it is no JSON."""
        if self._file is None:
            return None
        with contextlib.suppress(OSError, ValueError):
            return json.loads(self._file.read_text(encoding="utf-8"))
        return None

    def write(self, values: Any) -> None:
        """Writes plain values. The file appears in one piece, so no reader sees a part of it."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._file, json.dumps(values) + "\n")

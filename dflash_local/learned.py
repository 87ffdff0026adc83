"""What sessions learned of a pair on this machine, kept in the cache folder for the next ones."""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._api import _core
from .cache_folder import cache_dir
from .errors import BackendError, ModelError

_SCHEMA = 3
_KEPT = ("contexts", "accepted")
_CALIBRATION_SECONDS = 0.5
_WORTH_KEEPING = 32  # steps


class Learned:
    """Costs and acceptance of a pair, by everything that they depend on.

    A cache: what cannot be read, written or used is as good as not there.

    Args:
        key: plain values that tell this pair, its settings and this machine from all others.
    """

    def __init__(self, key: Mapping[str, Any]) -> None:
        named = json.dumps({**key, "schema": _SCHEMA}, sort_keys=True)
        digest = hashlib.sha256(named.encode()).hexdigest()
        self._file: Path | None = None
        with contextlib.suppress(ModelError):  # no home, no cache: nothing is kept
            self._file = cache_dir() / "learned" / f"{digest[:16]}.json"

    def begin(self, session: _core.Session) -> None:
        """Tells the session what is known, or lets it measure what decodes cost."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            known = self._read()
            session.restore(**{name: known[name] for name in _KEPT})
            return
        session.calibrate(_CALIBRATION_SECONDS)
        self._write(session)

    def keep(self, session: _core.Session) -> None:
        """Keeps what the session knows, where it has decoded more than a few tokens."""
        if session.closed or session.total_stats.n_steps < _WORTH_KEEPING:
            return
        if sys.is_finalizing():
            return  # a model nobody closed: half of Python is gone
        self._write(session)

    def _read(self) -> Any:
        if self._file is None:
            raise FileNotFoundError("there is no cache folder")
        return json.loads(self._file.read_text(encoding="utf-8"))

    def _write(self, session: _core.Session) -> None:
        if self._file is None:
            return
        part = self._file.with_name(f".{self._file.name}-{secrets.token_hex(4)}.tmp")
        # A session at work, whose model a signal handler closes, tells nothing.
        with contextlib.suppress(OSError, BackendError):
            part.parent.mkdir(parents=True, exist_ok=True)
            try:
                part.write_text(json.dumps(_kept(session)) + "\n", encoding="utf-8")
                part.replace(self._file)
            finally:
                part.unlink(missing_ok=True)


def _kept(session: _core.Session) -> dict[str, Any]:
    learned = session.learned()
    return {} if learned is None else {name: learned[name] for name in _KEPT}

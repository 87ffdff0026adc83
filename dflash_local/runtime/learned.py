"""What sessions learned of a pair on this machine, kept in the cache folder for the next ones."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from typing import Any

from dflash_local._api import _core
from dflash_local.errors import BackendError

from .kept import Kept

_SCHEMA = 3
_KEPT = ("contexts", "accepted")
_CALIBRATION_SECONDS = 0.5
_WORTH_KEEPING = 32  # steps


class Learned:
    """Costs and acceptance of a pair, by everything that they depend on.

    Args:
        key: plain values that tell this pair, its settings and this machine from all others.
    """

    def __init__(self, key: Mapping[str, Any]) -> None:
        self._kept = Kept("learned", {**key, "schema": _SCHEMA})

    def begin(self, session: _core.Session) -> None:
        """Tells the session what is known, or lets it measure what decodes cost."""
        with contextlib.suppress(ValueError, TypeError, KeyError):
            known = self._kept.read()
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

    def _write(self, session: _core.Session) -> None:
        # A session at work, whose model a signal handler closes, tells nothing.
        with contextlib.suppress(BackendError):
            self._kept.write(_kept(session))


def _kept(session: _core.Session) -> dict[str, Any]:
    learned = session.learned()
    return {} if learned is None else {name: learned[name] for name in _KEPT}

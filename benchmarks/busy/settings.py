"""What is measured on a busy machine: engines, and how OpenMP's threads wait."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SCRIPT = Path(__file__).with_name("answerer.py")
_QUESTION = "Write a Python class named Lamp with the attributes color, power and price."
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # what this process was told does not count
_SETTLE = 2.5  # seconds of answering that are not counted: a watch looks for two


@dataclass(frozen=True)
class Setting:
    """One engine, and how its threads wait.

    Attributes:
        brief: the process calls ``spin_briefly`` first.
        watch: it has a ``BusyWatch``.
        threads: None: as many as all others.
        width: drafts a step of ours; None: decided step by step.
    """

    name: str
    stock: bool = True
    environment: tuple[tuple[str, str], ...] = ()
    brief: bool = False
    watch: bool = False
    threads: int | None = None
    width: int | None = 0


def _spins(count: int) -> Setting:
    return Setting(f"stock, {count:,} spins", environment=(("GOMP_SPINCOUNT", str(count)),))


SETTINGS = (
    Setting("stock"),
    Setting("stock, BusyWatch", watch=True),
    Setting("stock, as dflash-local", brief=True, watch=True),
    Setting("ours, plain, as dflash-local", stock=False, brief=True, watch=True),
    Setting("ours, adaptive, as dflash-local", stock=False, brief=True, watch=True, width=None),
)
MORE = (
    *map(_spins, (100, 300, 1000, 10_000)),
    Setting("stock, passive", environment=(("OMP_WAIT_POLICY", "passive"),)),
    Setting("stock, 1 thread", threads=1),
)


class Answerer:
    """A process that answers under a setting; see answerer.py."""

    def __init__(self, setting: Setting, verifier: Path, drafter: Path, threads: int) -> None:
        setup: dict[str, Any] = {
            "verifier": str(verifier),
            "drafter": None if setting.stock else str(drafter),
            "threads": setting.threads or threads,
            "width": setting.width,
            "brief": setting.brief,
            "watch": setting.watch,
            "question": _QUESTION,
        }
        environment = {name: value for name, value in os.environ.items() if name not in _WAITING}
        self._process = subprocess.Popen(
            [sys.executable, str(_SCRIPT), json.dumps(setup)],
            env={**environment, **dict(setting.environment)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()

    def tokens_a_second(self, seconds: float) -> float:
        """Of answers of so many seconds, once threads wait as they do in these circumstances."""
        self._answer(_SETTLE)
        n_tokens, took = self._answer(seconds)
        return float(n_tokens / took)

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()

    def _answer(self, seconds: float) -> Any:
        assert self._process.stdin is not None
        print(seconds, file=self._process.stdin, flush=True)
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process ended with status {self._process.wait()}")
        return json.loads(line)

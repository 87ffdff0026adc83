"""Runs a child process, listens to it, and says what became of it."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from .setup import Setup
from .watch import HUNG, LIMIT, TICK

_BENCHMARKS = Path(__file__).resolve().parents[1]
_SILENT = 20.0  # seconds until a child that says nothing is ended
_EXIT = 3.0  # seconds that a process with threads at work may take to end
_TRACEBACK = 6000  # characters of it that are shown


@dataclass
class Outcome:
    """What a child did, and what was wrong.

    Attributes:
        findings: by kind: "signal", "hang", "wrong", "error".
        left: what was left behind, see ``traces.changes``; {} where it did not get so far.
        loads: models it loaded while memory was measured.
    """

    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    findings: list[tuple[str, str]] = field(default_factory=list)
    left: dict[str, int] = field(default_factory=dict)
    loads: int = 0


def run(setup: Setup) -> Outcome:
    """Starts a child and waits for its end, or ends it when it does not move any more."""
    outcome = Outcome(setup.seed)
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "robustness.child", setup.to_json()],
            stdout=subprocess.PIPE,
            stderr=log,
            encoding="utf-8",
            env=_environment(setup.folder),
        )
        assert process.stdout is not None
        _listen(process, process.stdout, outcome)
        status = process.wait()
        log.seek(0)
        _note_end(outcome, status, log.read().decode("utf-8", "replace"))
    return outcome


def _environment(folder: str) -> dict[str, str]:
    """Costs learned under such a load are nobody else's. With one arena malloc gives back what is
    free: what is left has been forgotten.
    """
    paths = [str(_BENCHMARKS), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {
        "PYTHONPATH": os.pathsep.join(paths),
        "DFLASH_LOCAL_CACHE": folder,
        "MALLOC_ARENA_MAX": "1",
    }
    return {**os.environ, **own}


def _listen(process: subprocess.Popen[str], stream: IO[str], outcome: Outcome) -> None:
    """Until its last line. A child beats at every tick, unless something has the GIL and waits."""
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(stream, lines), daemon=True).start()
    silent, last = 0.0, time.monotonic()
    while True:
        try:
            line = lines.get(timeout=TICK)
        except queue.Empty:
            now = time.monotonic()
            before, silent = silent, silent + min(now - last, 2 * TICK)
            last = now
            limit = _EXIT if outcome.left else LIMIT
            if before <= limit < silent and outcome.counts:
                what = "does not end" if outcome.left else "is silent: the GIL is taken"
                outcome.findings.append(("hang", f"for {limit:g} s it {what}"))
                _ask_for_traceback(process)
            if silent > _SILENT:
                process.kill()
            continue
        if line is None:
            return
        silent, last = 0.0, time.monotonic()
        _take(line, outcome)


def _read(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _take(line: str, outcome: Outcome) -> None:
    try:
        fields: dict[str, Any] = json.loads(line)
    except ValueError:
        outcome.findings.append(("error", f"printed by somebody: {line}"))
        return
    outcome.counts = Counter(fields.pop("counts", outcome.counts))
    outcome.left = fields.pop("left", outcome.left)
    outcome.loads = fields.pop("loads", outcome.loads)
    outcome.findings += fields.items()


def _ask_for_traceback(process: subprocess.Popen[str]) -> None:
    if hasattr(signal, "SIGUSR1"):
        process.send_signal(signal.SIGUSR1)


def _note_end(outcome: Outcome, status: int, said: str) -> None:
    if status < 0 and outcome.left:
        outcome.findings.append(("signal", f"{_name(-status)} at exit\n{said[-_TRACEBACK:]}"))
    elif status < 0:
        outcome.findings.append(("signal", f"{_name(-status)}\n{said[:_TRACEBACK]}"))
    elif status == HUNG:
        outcome.findings.append(("hang", f"ended itself\n{said[-_TRACEBACK:]}"))
    elif status != 0:
        outcome.findings.append(("error", f"exit status {status}\n{said[-_TRACEBACK:]}"))
    elif any(kind == "hang" for kind, _ in outcome.findings):
        outcome.findings.append(("traceback", said[:_TRACEBACK]))


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

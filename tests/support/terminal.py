"""A program on a pseudo-terminal."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import psutil
from waiting import PATIENCE, wait_until

# A test run in the background may ignore interrupts, and what it starts would as well.
_RELAY = """\
import os, pty, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))
"""


class Terminal:
    """A program on a pseudo-terminal, fed and read like one a person sits at."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _RELAY, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"},
        )
        self._seen, self._ended = b"", False
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        data = b"more"
        while data:
            data = os.read(self._process.stdout.fileno(), 4096)
            with self._news:
                self._seen += data
                self._ended = not data
                self._news.notify()

    def type(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()

    def wait_for(self, text: str, since: int = 0) -> int:
        """Returns the position after ``text``."""
        wanted = text.encode()
        with self._news:
            self._news.wait_for(lambda: self._ended or wanted in self._seen[since:], PATIENCE)
            assert wanted in self._seen[since:], f"{text!r} not in {self._seen[since:]!r}"
            return self._seen.index(wanted, since) + len(wanted)

    def wait_for_prompt(self, since: int = 0) -> int:
        """As ``wait_for`` with the prompt, until the program sleeps there.

        A signal between the prompt and that sleep is not noticed before the next key.
        """
        at = self.wait_for("> ", since)
        if sys.platform == "linux":
            (program,) = psutil.Process(self._process.pid).children()
            wait_until(lambda: program.status() == psutil.STATUS_SLEEPING, "it sleeps")
        return at

    def text(self, since: int = 0) -> str:
        return self._seen[since:].decode()

    def exit_status(self) -> int:
        status = self._process.wait(timeout=PATIENCE)
        self._reader.join()
        return status

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

"""The other end of ``serve``: an engine's process as seen from the benchmark."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .answer import Answer, Variant
from .engine import UnavailableError

# Loading and a long answer on a slow machine; past it the engine hangs.
TIMEOUT = 900.0
_ROOT = Path(__file__).resolve().parent.parent


class Worker:
    """A process that holds one engine's models.

    Args:
        name: a key of ``serve.MODULES``.
        setup: what its ``load`` reads.
        python: the interpreter to run it.

    Raises:
        UnavailableError: it did not come up; the message says why.
    """

    def __init__(self, name: str, setup: dict[str, Any], python: str = sys.executable) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - close() does
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        try:
            self._process = subprocess.Popen(
                [python, "-m", "peers.serve", name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                encoding="utf-8",
            )
        except OSError as error:
            self._log.close()
            raise UnavailableError(f"{python} cannot be started: {error}") from error
        try:
            self.versions: dict[str, str] = self._ask(setup)["versions"]
        except BaseException:
            self.close()
            raise

    def answer(self, variant: Variant, prompt: Sequence[int], max_tokens: int) -> Answer:
        """One greedy answer.

        Raises:
            UnavailableError: the engine failed, or its process ended or hung.
        """
        request = {"engine": variant.engine, "width": variant.width}
        return Answer(**self._ask({**request, "prompt": list(prompt), "max_tokens": max_tokens}))

    def close(self) -> None:
        """Ends the process."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._deadline(), contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
            if line:
                reply: dict[str, Any] = json.loads(line)
                if "error" in reply:
                    raise UnavailableError(reply["error"] + self._last_errors())
                return reply
        code = self._process.wait()
        raise UnavailableError(f"its process ended with status {code}{self._last_errors()}")

    @contextlib.contextmanager
    def _deadline(self) -> Iterator[None]:
        timer = threading.Timer(TIMEOUT, self._process.kill)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _last_errors(self) -> str:
        """The last error that a library wrote, in brackets; libllama's lines have an E there."""
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").splitlines()
        marks = (" E ", "GGML_ASSERT", "error", "Error")
        found = [line for line in lines if any(mark in line for mark in marks)]
        return f" ({found[0].strip()[:300]})" if found else ""

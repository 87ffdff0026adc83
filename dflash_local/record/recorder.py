"""Answers on their way into a record. It never disturbs them: what goes wrong is warned of once."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from inspect import Signature
from typing import TYPE_CHECKING, Any

from .folder import RecordFolder, write_private
from .heartbeat import Heartbeat
from .source import Source

if TYPE_CHECKING:
    from dflash_local.runtime.generation import TokenGenerator


class Recorder:
    """Writes finished answers into a folder.

    Args:
        source: what the answers are of.
        warn: told why no more is recorded, once.

    Raises:
        OSError: the folder cannot be written to.
    """

    def __init__(
        self,
        folder: RecordFolder,
        source: Source,
        warn: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._source = source.key
        self._warn = warn
        self._lock = threading.Lock()
        self._stopped = False
        self.heartbeat = Heartbeat(folder.path)
        write_private(folder.path / "models" / f"{source.key}.json", source.to_json())

    def add(
        self,
        prompt: Sequence[int],
        answer: Sequence[int],
        *,
        ended: bool,
        settings: Mapping[str, Any],
    ) -> None:
        """Keeps an answer.

        Args:
            ended: the model ended it; else a limit or a stop string did.
            settings: of the sampler, plain values.
        """
        if not prompt or not answer:
            return
        row = {
            "at": round(time.time()),
            "source": self._source,
            "tokens": [*prompt, *answer],
            "start": len(prompt),
            "ended": ended,
            "settings": dict(settings),
        }
        with self._lock:
            if not self._stopped:
                self._append(json.dumps(row, separators=(",", ":")))

    def _append(self, line: str) -> None:
        try:
            self._folder.append(line)
        except OSError as error:
            self._stopped = True
            self._warn(f"answers are no longer recorded: {error}")


class Answer:
    """One that is being made.

    Args:
        is_end: whether a token ends an answer.
    """

    def __init__(self, recorder: Recorder, is_end: Callable[[int], bool]) -> None:
        self._recorder = recorder
        self._is_end = is_end
        self._prompt: list[int] = []
        self._tokens: list[int] = []
        self._settings: Mapping[str, Any] = {}
        recorder.heartbeat.begin()

    def begin(self, prompt: list[int], arguments: Mapping[str, Any], signature: Signature) -> None:
        """The prompt has been read; what was asked of the sampler is among the arguments."""
        self._prompt = prompt
        # Plain values, other than the defaults: no tokens, and nothing that holds a text.
        self._settings = {
            name: value
            for name, value in arguments.items()
            if isinstance(value, int | float) and value != signature.parameters[name].default
        }

    def watched(self, tokens: TokenGenerator) -> TokenGenerator:
        """The same tokens, which are taken down as they are handed out."""
        with contextlib.closing(tokens):
            sent = None
            while True:
                try:
                    token = tokens.send(sent)
                except StopIteration:
                    return
                self._tokens.append(token)
                self._recorder.heartbeat.beat()
                sent = yield token

    @property
    def came_to_its_end(self) -> bool:
        """Whether the model said that this is all."""
        return bool(self._tokens) and self._is_end(self._tokens[-1])

    def finish(self) -> None:
        """It is whole: nobody broke it off. A second time it does nothing."""
        tokens, self._tokens = self._tokens, []
        ended = bool(tokens) and self._is_end(tokens[-1])
        self._recorder.add(self._prompt, tokens, ended=ended, settings=self._settings)

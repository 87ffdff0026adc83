"""What the verifier makes of texts: each is read once, and kept for the next time."""

from __future__ import annotations

from hashlib import sha256
from types import TracebackType

import numpy as np

from .capture import Reading
from .conversations import Conversation
from .store import Store
from .verifiers.verifier import Reader

TOP_K = 8  # of the verifier's tokens at each position


class Readings:
    """A verifier that reads texts, and the store of what it has read; close it to free both."""

    def __init__(self, reader: Reader, store: Store) -> None:
        self._reader = reader
        self._store = store

    def read(self, conversation: Conversation) -> Reading:
        """What the verifier makes of a text: kept from an earlier time, or read now."""
        key = sha256(np.asarray(conversation.tokens, np.int32).tobytes()).hexdigest()[:24]
        if key in self._store:
            return self._store.get(key)
        reading = self._reader.read(conversation.tokens, TOP_K)
        if not self._store.has_room(len(reading.ids)):
            return reading
        self._store.put(key, reading)
        return self._store.get(key)  # rounded, as it will be from now on

    def close(self) -> None:
        """Frees the verifier."""
        self._reader.close()

    def __enter__(self) -> Readings:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

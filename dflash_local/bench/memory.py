"""What the models take of memory: libllama's own words, and the process as a whole."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field

import psutil

from dflash_local.llama_log import listening

_MIB = 1 << 20
_BUFFER = re.compile(r"(KV|RS|compute|output) buffer size = +([\d.]+) MiB")
_DEVICE = re.compile(r"using device (\S+ \(.*?\))")
_NEW_CONTEXT = "constructing llama_context"


@dataclass
class ContextMemory:
    """Bytes of a context; ``kv`` holds recurrent states too, ``compute`` the rows of logits."""

    kv: float = 0.0
    compute: float = 0.0


@dataclass
class Memory:
    """What was allocated, in bytes.

    Attributes:
        verifier, drafter: weights, as large as the files.
        plain_context: of stock ``llama_cpp.Llama``. None where libllama did not say.
        verifier_context: of ``dflash_local.Llama``.
        drafter_context: of its drafter.
        resident: of the process "before" loading, then with "plain", then with both.
        devices: what libllama computes on beside the CPU.
    """

    verifier: int = 0
    drafter: int = 0
    plain_context: ContextMemory | None = None
    verifier_context: ContextMemory | None = None
    drafter_context: ContextMemory | None = None
    resident: dict[str, int] = field(default_factory=dict)
    devices: list[str] = field(default_factory=list)


class LoadLog:
    """Reads libllama's log while this thread loads models.

    Attributes:
        contexts: in the order they were made, those that were closed again among them.
        devices: as libllama names them.
    """

    def __init__(self) -> None:
        self.contexts: list[ContextMemory] = []
        self.devices: list[str] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> LoadLog:
        self._stack.enter_context(listening(lambda _level, line: self.read(line)))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, line: str) -> None:
        """Takes in one line of the log."""
        if _NEW_CONTEXT in line:
            self.contexts.append(ContextMemory())
        device = _DEVICE.search(line)
        if device and device.group(1) not in self.devices:
            self.devices.append(device.group(1))
        found = _BUFFER.search(line)
        if found and self.contexts:
            self._add(found.group(1), float(found.group(2)) * _MIB)

    def _add(self, kind: str, size: float) -> None:
        if kind in ("KV", "RS"):
            self.contexts[-1].kv += size
        else:
            self.contexts[-1].compute += size


def resident_bytes() -> int:
    """What this process holds in memory."""
    return int(psutil.Process().memory_info().rss)

"""What the models take of memory: libllama's own words, and the process as a whole."""

from __future__ import annotations

import ctypes
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import llama_cpp

_MIB = 1 << 20
_BUFFER = re.compile(r"(\S+) (model|KV|RS|compute|output) buffer size = +([\d.]+) MiB")
_DEVICE = re.compile(r"using device (\S+ \(.*?\))")
_NEW_CONTEXT = "constructing llama_context"


@dataclass
class ModelMemory:
    """Bytes of one model and its context; ``kv`` holds recurrent states too."""

    weights: float = 0.0
    kv: float = 0.0
    compute: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.kv + self.compute


@dataclass
class Memory:
    """What was allocated.

    Attributes:
        plain: stock ``llama_cpp.Llama``: its verifier. Empty where libllama did not say.
        speculative: verifier and drafter of ``dflash_local.Llama``.
        resident: bytes of the process "before", then with "plain", then with both.
        devices: what libllama computes on beside the CPU.
    """

    plain: list[ModelMemory] = field(default_factory=list)
    speculative: list[ModelMemory] = field(default_factory=list)
    resident: dict[str, int | None] = field(default_factory=dict)
    devices: list[str] = field(default_factory=list)


class LoadLog:
    """Reads libllama's log while models are loaded; its log callback is put back afterwards.

    Attributes:
        models: in the order they were loaded. A context that was made anew counts once.
        devices: as libllama names them.
    """

    def __init__(self) -> None:
        self.models: list[ModelMemory] = []
        self.devices: list[str] = []
        self._pending = ""
        self._callback = llama_cpp.llama_log_callback(self._keep)

    def __enter__(self) -> LoadLog:
        self._previous = llama_cpp.llama_log_callback()
        self._user_data = ctypes.c_void_p()
        llama_cpp.llama_log_get(ctypes.byref(self._previous), ctypes.byref(self._user_data))
        llama_cpp.llama_log_set(self._callback, ctypes.c_void_p())
        return self

    def __exit__(self, *_: object) -> None:
        llama_cpp.llama_log_set(self._previous, self._user_data)

    def _keep(self, _level: int, text: bytes, _user_data: object) -> None:
        # A line may come in pieces.
        self._pending += text.decode("utf-8", "replace")
        *lines, self._pending = self._pending.split("\n")
        for line in lines:
            self.read(line)

    def read(self, line: str) -> None:
        """Takes in one line of the log."""
        if _NEW_CONTEXT in line and self.models:
            self.models[-1].kv = self.models[-1].compute = 0.0
        device = _DEVICE.search(line)
        if device and device.group(1) not in self.devices:
            self.devices.append(device.group(1))
        found = _BUFFER.search(line)
        if found:
            self._add(found.group(2), float(found.group(3)) * _MIB)

    def _add(self, kind: str, size: float) -> None:
        if kind == "model":
            if not self.models or self.models[-1].compute:
                self.models.append(ModelMemory())
            self.models[-1].weights += size
        elif self.models and kind in ("KV", "RS"):
            self.models[-1].kv += size
        elif self.models:
            self.models[-1].compute += size


def resident_bytes() -> int | None:
    """What this process holds in memory; None where the system does not tell."""
    try:
        fields = Path("/proc/self/statm").read_text().split()
    except OSError:
        return _peak_bytes()
    import resource

    return int(fields[1]) * resource.getpagesize()


def _peak_bytes() -> int | None:
    """The most it ever held: where nothing else is known, the models are most of it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

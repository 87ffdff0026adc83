"""How busy others keep the machine: what makes times doubtful, and decoding share processors."""

from __future__ import annotations

import contextlib
import os
import time


class OtherWork:
    """What others did on the processors that this process may use, since this was made.

    Work of this process and of its children that have ended is its own. What a host took from a
    virtual machine is others'.

    Attributes:
        n_cpus: processors that this process may use.
    """

    #: Of all processors; above it times are doubtful.
    TOO_MUCH = 0.05

    def __init__(self) -> None:
        cpus = affinity()
        self._cpus = range(os.cpu_count() or 1) if cpus is None else cpus
        self.n_cpus = len(self._cpus)
        self.begin()

    def begin(self) -> None:
        """What counts begins here, anew."""
        self._start = time.monotonic()
        self._before = self._others_seconds()

    def processors(self) -> float:
        """That others had, a mean: 0 to ``n_cpus``."""
        seconds = time.monotonic() - self._start
        others = self._others_seconds() - self._before
        return min(float(self.n_cpus), max(0.0, others / seconds)) if seconds > 0 else 0.0

    def share(self) -> float:
        """That others had of all processors, 0 to 1."""
        return self.processors() / self.n_cpus

    def _others_seconds(self) -> float:
        import psutil

        all_busy = sum(
            _busy_seconds(times._asdict())
            for cpu, times in enumerate(psutil.cpu_times(percpu=True))
            if cpu in self._cpus
        )
        return float(all_busy - sum(psutil.Process().cpu_times()[:4]))


def _busy_seconds(times: dict[str, float]) -> float:
    # Linux counts a guest's time in user and in guest.
    idle = ("idle", "iowait", "guest", "guest_nice")
    return sum(seconds for name, seconds in times.items() if name not in idle)


def affinity() -> list[int] | None:
    """The processors that this process may run on; None where the system does not tell."""
    import psutil

    with contextlib.suppress(AttributeError, psutil.Error, OSError):
        return list(psutil.Process().cpu_affinity())
    return None

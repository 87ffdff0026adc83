"""How many threads a decode should get on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system/cpu")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def physical_cores() -> int:
    """The physical cores this process may use, at least 1.

    Two threads on one core only wait for each other in a matrix product. Honours the affinity mask
    and, on Linux, a container's CPU quota; where the topology is unknown, logical CPUs count.
    """
    cores = _performance_cores() if sys.platform == "darwin" else _distinct_cores(_usable_cpus())
    return max(1, min(cores, _quota(_QUOTA)))


def _usable_cpus() -> set[int]:
    if sys.platform == "linux":
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _distinct_cores(cpus: set[int]) -> int:
    return len({_siblings(cpu) for cpu in cpus})


def _siblings(cpu: int) -> str:
    """What names the core a logical CPU belongs to: the list of its siblings."""
    try:
        return (_TOPOLOGY / f"cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _performance_cores() -> int:
    # An efficiency core in the team makes all others wait for it.
    for name in ("hw.perflevel0.physicalcpu", "hw.physicalcpu"):
        done = subprocess.run(
            ["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, check=False
        )
        if done.returncode == 0 and done.stdout.strip().isdigit():
            return int(done.stdout)
    return os.cpu_count() or 1


def _quota(file: Path) -> int:
    """Whole CPUs of a control group's quota file (``"max 100000"`` or ``"150000 100000"``)."""
    try:
        allowed, period = file.read_text().split()
        return max(1, int(allowed) // int(period))
    except (OSError, ValueError):
        return sys.maxsize

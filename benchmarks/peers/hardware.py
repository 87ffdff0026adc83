"""The machine and the versions that stand beside every figure."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from dflash_local.cli.cores import physical_cores

_UNITS = 1 << 30


def hardware() -> dict[str, str | int]:
    """Processor, cores, memory and system."""
    return {
        "cpu": _cpu_name(),
        "cores": physical_cores(),
        "logical_cpus": os.cpu_count() or 1,
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def load_average() -> float | None:
    """Processes that wanted a core in the last minute; None where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gib() -> int:
    if sys.platform == "win32":
        return 0
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _UNITS)
    except (OSError, ValueError):
        return 0

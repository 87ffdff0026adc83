"""What the figures were measured on: hardware and versions, no names of hosts or folders."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import llama_cpp
import psutil

_PACKAGES = ("dflash-local", "llama-cpp-python", "numpy")


def hardware(devices: list[str]) -> dict[str, Any]:
    """Processor, logical CPUs, memory, system, and the GPUs that libllama uses."""
    return {
        "cpu": _cpu_name(),
        "logical_cpus": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
        "gpus": devices,
        "features": _features(),
    }


def versions() -> dict[str, str]:
    """Of Python and the packages that matter."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def name() -> str:
    """Of the machine's kind, fit for a file: processor and logical CPUs, no name of a host."""
    return f"{slug(_cpu_name())}-{os.cpu_count()}cpu"


def slug(text: str) -> str:
    """A name for a file: "Intel(R) Xeon(R) CPU @ 2.5GHz" gives "intel-xeon-cpu-2-5ghz"."""
    plain = re.sub(r"\((R|TM|C)\)", "", text, flags=re.IGNORECASE).lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or "unknown"


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, flags=re.MULTILINE)
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def _features() -> list[str]:
    """What libllama's kernels use of the processor, such as AVX512."""
    text = llama_cpp.llama_print_system_info().decode("utf-8", "replace")
    return re.findall(r"(\w+) = 1\b", text)

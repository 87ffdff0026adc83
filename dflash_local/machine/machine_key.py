"""What the cost of decoding depends on in this machine, as plain values for a key.

They are the same from one start to the next: no free memory, no loads, and no name of the host,
which every new container changes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import llama_cpp

from .ggml import function as _function
from .other_work import affinity

# Which devices there are to see, and how OpenMP's threads wait and where they run.
_ENVIRONMENT = (
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "GGML_VK_VISIBLE_DEVICES",
    "ONEAPI_DEVICE_SELECTOR",
    "OMP_WAIT_POLICY",
    "OMP_PROC_BIND",
    "OMP_PLACES",
    "GOMP_SPINCOUNT",
    "GOMP_CPU_AFFINITY",
    "KMP_BLOCKTIME",
    "KMP_AFFINITY",
)
# ggml sets it where nobody did; a child process of one that loaded libllama finds it set.
_GGMLS_OWN = ("KMP_BLOCKTIME", "200")
_CPU = 0  # ggml's number of the kind of device
_ROOT = Path("/")


def machine_key() -> dict[str, object]:
    """Devices, processors, what of them this process may use, and the switches it was given."""
    return {
        "system": [platform.system(), platform.machine()],
        "features": llama_cpp.llama_print_system_info().decode("utf-8", "replace"),
        "devices": devices(),
        "cpus": os.cpu_count(),
        "affinity": affinity(),
        "cpu_quota": cpu_quota(),
        "environment": dict(_switches()),
    }


def _switches() -> Iterator[tuple[str, str]]:
    for name in _ENVIRONMENT:
        if name in os.environ and (name, os.environ[name]) != _GGMLS_OWN:
            yield name, os.environ[name]


def devices() -> list[list[object]]:
    """ggml's devices: name, model, memory in GiB. The processor is one, without its memory.

    Empty where this build of llama_cpp does not let them be asked.
    """
    with contextlib.suppress(ImportError, OSError, AttributeError):
        return list(_devices())
    return []


def _devices() -> Iterator[list[object]]:
    count = _function("ggml_backend_dev_count", ctypes.c_size_t)
    get = _function("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    name = _function("ggml_backend_dev_name", ctypes.c_char_p, ctypes.c_void_p)
    description = _function("ggml_backend_dev_description", ctypes.c_char_p, ctypes.c_void_p)
    kind = _function("ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)
    for index in range(count()):
        device = get(index)
        texts = [(text(device) or b"").decode("utf-8", "replace") for text in (name, description)]
        yield [*texts, None if kind(device) == _CPU else gibibytes(device)]


def gibibytes(device: int) -> int:
    """The memory of one of ggml's devices."""
    size = ctypes.POINTER(ctypes.c_size_t)
    memory = _function("ggml_backend_dev_memory", None, ctypes.c_void_p, size, size)
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    memory(device, ctypes.byref(free), ctypes.byref(total))
    return round(total.value / (1 << 30))


def cpu_quota(root: Path = _ROOT) -> float | None:
    """How many processors' time the control groups grant; None without a limit, or any such."""
    limits: list[float] = []
    for folder in _control_groups(root):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            limits += _limit(folder)
    return min(limits, default=None)


def _control_groups(root: Path) -> Iterator[Path]:
    """The groups that hold this process, and those around them: each may set a limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Version 1 has a tree for each controller, version 2 one for all and names none here.
        mounted = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        group = PurePosixPath(path.lstrip("/"))
        yield from (mounted / inner for inner in (group, *group.parents))


def _limit(group: Path) -> list[float]:
    """The processors that a group has, at most one number."""
    if (group / "cpu.max").is_file():
        quota, period = (group / "cpu.max").read_text().split()
    else:
        quota = (group / "cpu.cfs_quota_us").read_text().strip()
        period = (group / "cpu.cfs_period_us").read_text().strip()
    return [] if quota in ("max", "-1") else [int(quota) / int(period)]

"""Runs one converter in a process of its own, and says what it took.

    python timed.py FILE ours ARGUMENTS...
    python timed.py FILE upstream SCRIPT ARGUMENTS...

FILE takes, as JSON, the seconds once all libraries are loaded, and the peak of memory in MB. A
parent that starts many commands cannot ask for that: the system hands a child the parent's own peak
to start with.
"""

from __future__ import annotations

import importlib
import json
import runpy
import sys
import time
from pathlib import Path


def peak_mb() -> float:
    """The most memory this process has held, resident."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # macOS counts bytes


def load(which: str, arguments: list[str]) -> None:
    """Import what the converter works with."""
    modules = ["dflash_local.convert.cli", "dflash_local.convert.converter", "llama_cpp"]
    if which == "upstream":
        folder = Path(arguments[0]).parent
        sys.path[:1] = [str(folder), str(folder / "gguf-py")]
        modules = ["gguf", "torch", "conversion"]
    for name in modules:
        importlib.import_module(name)


def run(which: str, arguments: list[str]) -> int | str | None:
    """Run a converter as if it had been started by itself."""
    try:
        if which == "ours":
            from dflash_local.convert.cli import main

            return main(arguments)
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as done:
        return done.code
    return 0


if __name__ == "__main__":
    _, result_file, converter, *rest = sys.argv
    load(converter, rest)
    start = time.perf_counter()
    code = run(converter, rest)
    result = {"loaded_seconds": time.perf_counter() - start, "megabytes": peak_mb()}
    Path(result_file).write_text(json.dumps(result))
    sys.exit(code)

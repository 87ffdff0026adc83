"""The wheel of llama-cpp-python that run.py installs: with llama.cpp's RPC, and nothing unneeded.

It is built once for each user, machine and set of options, and kept in the cache folder. pip would
keep a wheel as well, but does not know about CMAKE_ARGS.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shlex
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

NAME = "llama-cpp-python"
# What is left out: multimodal projectors, and the library behind llama.cpp's own programs. They
# are two thirds of the build, and neither llama_cpp's import nor this project uses them.
OPTIONS = ("-DGGML_RPC=ON", "-DLLAVA_BUILD=OFF")
LIBRARY_ONLY = Path(__file__).resolve().parent / "cmake" / "llama_library_only.cmake"
INCLUDE = "-DCMAKE_PROJECT_llama.cpp_INCLUDE="
# Besides CMAKE_ARGS, what a user says to the compiler.
_COMPILER = ("CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS")


class LlamaWheel:
    """A wheel for a requirement such as ``llama-cpp-python>=0.3.36``, in the cache or not yet.

    Args:
        requirement: as pip takes it; the newest version at the time of the build is kept.
        environment: variables; ``CMAKE_ARGS`` holds the user's options, which come before ours.
        cache: the folder of all such wheels.
    """

    def __init__(
        self,
        requirement: str,
        environment: Mapping[str, str] = os.environ,
        cache: Path | None = None,
    ) -> None:
        self.requirement = requirement
        self._environment = environment
        options = cmake_args(environment.get("CMAKE_ARGS", ""))
        self._cmake_args = shlex.join([*options, f"{INCLUDE}{LIBRARY_ONLY.as_posix()}"])
        compiler = [environment.get(name) for name in _COMPILER]
        # The content of the included file, not its place: another checkout shares the wheel.
        facts = (requirement, options, LIBRARY_ONLY.read_bytes(), compiler, _machine())
        self.key = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
        self._folder = (cache or cache_folder(environment)) / self.key

    def find(self) -> Path | None:
        """The wheel, where it is already built."""
        return next(self._folder.glob("*.whl"), None)

    def build(self, python: Path, run: Callable[[list[str], dict[str, str]], None]) -> Path:
        """Builds it with the pip of an interpreter.

        Args:
            run: runs a command in an environment, and raises where it fails.
        """
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        # Two processes may build at once: each for itself, and the first one's is kept.
        part = tempfile.mkdtemp(prefix=f".{self.key}-", dir=self._folder.parent)
        try:
            pip = [str(python), "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-cache-dir"]
            command = [*pip, "--no-binary", NAME, "--wheel-dir", part, self.requirement]
            run(command, {**self._environment, "CMAKE_ARGS": self._cmake_args})
            with contextlib.suppress(OSError):  # the other one was faster
                Path(part).rename(self._folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        found = self.find()
        assert found is not None, f"pip left no wheel in {self._folder}"
        return found


def cmake_args(users: str) -> list[str]:
    """The user's options, then those of ours that the user's do not name."""
    options = shlex.split(users)
    named = {_option(option) for option in options}
    return options + [option for option in OPTIONS if _option(option) not in named]


def _option(argument: str) -> str:
    """The variable that ``-DNAME=VALUE`` or ``-DNAME:TYPE=VALUE`` sets."""
    return re.split("[:=]", argument.removeprefix("-D"), maxsplit=1)[0]


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Beside the other files that dflash_local makes once for a user; see ``cache_dir``."""
    own = environment.get("DFLASH_LOCAL_CACHE")
    try:
        return (Path(own).expanduser() if own else _platform_cache(environment)) / "wheels"
    except RuntimeError:  # in a container a user may be a mere number, without a home
        return LIBRARY_ONLY.parent.parent / "build" / "wheels"


def _platform_cache(environment: Mapping[str, str]) -> Path:
    if sys.platform == "win32":
        local = environment.get("LOCALAPPDATA")
        return Path(local or Path.home() / "AppData" / "Local") / "dflash-local"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "dflash-local"
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dflash-local"


def _machine() -> list[str]:
    """System and processor: the build is for exactly this one, and a home folder may travel."""
    processor = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        told = ("model name", "flags", "Features")
        processor = "\n".join(dict.fromkeys(line for line in lines if line.startswith(told)))
    return [sysconfig.get_platform(), *platform.libc_ver(), processor]

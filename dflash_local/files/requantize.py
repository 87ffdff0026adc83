"""A GGUF in other weights, by libllama's own quantiser."""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import sys
from pathlib import Path

import llama_cpp

from dflash_local.errors import ModelError
from dflash_local.llama_log import captured_log
from dflash_local.user_folders import has_file
from dflash_local.whole_files import whole_file


def requantize(source: Path, target: Path, file_type: int) -> None:
    """Write ``source`` (any GGUF) in other weights with libllama's own quantiser, silently.

    ``file_type`` is one of llama_cpp's ``LLAMA_FTYPE_*``. ``target`` is whole or not there.

    Raises:
        ModelError: the folder cannot be written, or libllama refuses; its own words are quoted.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(target) as part:
            part.touch(exist_ok=False)  # whether it can be written is told before the work
            _quantize(source, part, target, file_type)
    except OSError as error:
        # Windows refuses while another process has it open; that one then made the same file.
        if sys.platform != "win32" or not has_file(target):
            raise _not_written(source, target, str(error)) from error


def _quantize(source: Path, part: Path, target: Path, file_type: int) -> None:
    params = llama_cpp.llama_model_quantize_default_params()
    params.allow_requantize = True
    params.ftype = file_type
    with captured_log() as log:
        llama_cpp.llama_backend_init()
        code = llama_cpp.llama_model_quantize(
            str(source).encode(), _narrow_path(part), ctypes.byref(params)
        )
    if code != 0:
        reason = "".join(log).strip() or f"llama_model_quantize returned {code}"
        raise _not_written(source, target, reason)


def _narrow_path(path: Path) -> bytes:
    # libllama reads with UTF-8 names everywhere, but writes through std::ofstream.
    return str(path).encode("mbcs" if sys.platform == "win32" else "utf-8")


def _not_written(source: Path, target: Path, reason: str) -> ModelError:
    room = ""
    with contextlib.suppress(OSError):
        room = f" ({shutil.disk_usage(target.parent).free >> 20} MiB free)"
    return ModelError(
        f"cannot make {target} from {source}: {reason}. Check that the source is whole and that "
        f"there is room{room}, or set DFLASH_LOCAL_CACHE to another folder"
    )

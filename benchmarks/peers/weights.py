"""The verifier in other weights, made once in the cache folder by llama_cpp's own quantiser."""

from __future__ import annotations

import ctypes
import secrets
from pathlib import Path

import llama_cpp

from dflash_local import ModelError, hub
from dflash_local.llama_log import captured_log

FILE_TYPES = {
    "BF16": llama_cpp.LLAMA_FTYPE_MOSTLY_BF16,
    "F16": llama_cpp.LLAMA_FTYPE_MOSTLY_F16,
    "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q4_1": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_1,
    "Q4_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "Q6_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q6_K,
}
#: The verifier's own file, untouched.
AS_IS = "as-is"


def verifier_in(weights: str, source: Path | None) -> Path:
    """The verifier's file in these weights.

    Args:
        weights: a key of ``FILE_TYPES``, or ``AS_IS``.
        source: the user's verifier; None: the demo's.

    Raises:
        ModelError: it cannot be found or made.
    """
    if weights == AS_IS:
        return source or hub.demo_source()
    if source is None and weights == "BF16":
        return hub.demo_verifier()
    source = source or hub.demo_source()
    name = f"{source.stem}-{weights.lower()}-{hub.fingerprint(source)}.gguf"
    target = hub.cache_dir() / name
    if not target.is_file():
        _quantize(source, target, FILE_TYPES[weights])
    return target


def _quantize(source: Path, target: Path, file_type: int) -> None:
    temporary = target.with_name(f"{target.stem}-{secrets.token_hex(8)}.tmp")
    params = llama_cpp.llama_model_quantize_default_params()
    params.allow_requantize = True
    params.ftype = file_type
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with captured_log() as log:
            llama_cpp.llama_backend_init()
            code = llama_cpp.llama_model_quantize(
                str(source).encode(), str(temporary).encode(), ctypes.byref(params)
            )
        if code:
            reason = "".join(log).strip() or f"llama_model_quantize returned {code}"
            raise ModelError(f"cannot make {target} from {source}: {reason}. Is there room?")
        temporary.replace(target)
    except OSError as error:
        raise ModelError(f"cannot write {target}: {error}. Set DFLASH_LOCAL_CACHE") from error
    finally:
        temporary.unlink(missing_ok=True)

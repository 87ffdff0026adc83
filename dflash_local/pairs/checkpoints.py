"""Drafters as they are trained, in safetensors: recognised, and converted once in the cache."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

from dflash_local.convert.converter import convert
from dflash_local.convert.layouts.registry import LAYOUTS, detect
from dflash_local.convert.reading.source import Source, open_source
from dflash_local.convert.verifiers.pair import pair_problems
from dflash_local.convert.verifiers.verifier import Verifier
from dflash_local.files.fingerprint import release
from dflash_local.user_folders import has_file

_ARCHITECTURES = frozenset(name for layout in LAYOUTS for name in layout.architectures)
_log = logging.getLogger("dflash_local")


def is_drafter_checkpoint(folder: Path) -> bool:
    """Whether a folder's config.json says that its safetensors are a drafter."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8-sig"))
        names = config.get("architectures") or [None]
        return names[0] in _ARCHITECTURES and any(folder.glob("*.safetensors"))
    except (OSError, ValueError, AttributeError, LookupError, TypeError):
        return False  # another kind of folder


def misfit(folder: Path, verifier: Verifier) -> list[str]:
    """Every reason why a checkpoint is no drafter for the verifier, as far as config.json tells.

    Raises:
        ModelError: it cannot be converted at all.
    """
    source = open_source(folder)
    return pair_problems(detect(source).parse_config(source), verifier)


def converted(checkpoint: Path, verifier: Verifier, folder: Path) -> Path:
    """The GGUF of a checkpoint for a verifier, made when it is first asked for.

    A drafter's file holds its verifier's tokenizer, so there is one for each tokenizer.

    Args:
        folder: where such files are kept; it is made.

    Raises:
        ModelError: it cannot be converted, or does not fit.
        OSError: it cannot be written.
    """
    source = open_source(checkpoint)
    target = folder / f"{source.name}-{_digest(source, verifier)}.gguf"
    if not has_file(target):
        _log.info("drafters: converting %s to %s", source.location, target)
        folder.mkdir(parents=True, exist_ok=True)
        convert(checkpoint, verifier.path, target)
    return target


def _digest(source: Source, verifier: Verifier) -> str:
    """Of all that decides on the file: the checkpoint, and what it takes of the verifier."""
    digest = hashlib.sha256(json.dumps(source.config, sort_keys=True).encode())
    for file in (*source.files, *source.folder.glob("mask_embedding.pt")):
        digest.update(release(file).encode())
    for key, value in sorted(verifier.tokenizer.items()):
        digest.update(key.encode() + value)
    digest.update(repr((verifier.name, verifier.mrope)).encode())
    if (source.folder / "mask_embedding.pt").is_file():  # then embedding and head come from it
        digest.update(release(verifier.path).encode())
    return digest.hexdigest()[:12]

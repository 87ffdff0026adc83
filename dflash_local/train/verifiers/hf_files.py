"""A Hugging Face model as files: in a folder, or fetched from the hub into its cache."""

from __future__ import annotations

import hashlib
from pathlib import Path

from dflash_local import hf_hub
from dflash_local.errors import ModelError
from dflash_local.files.fingerprint import fingerprint

# Model, tokenizer and chat template.
_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
_NEEDED = ("config.json", "*.safetensors")


def locate(verifier: Path) -> Path:
    """The folder of a model: itself, or, of an id, that of ``hf_hub.download``.

    Raises:
        ModelError: there is no such model, or a part of it is missing.
    """
    folder = verifier if verifier.is_dir() else hf_hub.download(verifier.as_posix(), _FILES)
    missing = hf_hub.missing_files(folder, _NEEDED)
    if missing:
        raise ModelError(
            f"{verifier} has no {' and no '.join(missing)} in {folder}: expected a Hugging Face "
            "model with safetensors. Half a download is completed by `hf download`"
        )
    return folder


def name_of(folder: Path) -> str:
    """The id of a folder in the Hugging Face cache, the name of another."""
    known = hf_hub.repository_of(folder)
    return folder.resolve().name if known is None else known[0]


def folder_fingerprint(folder: Path) -> str:
    """Tells a model from its other versions, by its files' names, sizes, heads and tails."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _FILES for path in folder.glob(pattern)):
        digest.update(f"{path.name} {fingerprint(path)}\n".encode())
    return digest.hexdigest()[:12]

"""Checkpoints by their Hugging Face id."""

from __future__ import annotations

from pathlib import Path

from dflash_local import hf_hub
from dflash_local.errors import ModelError

# All that is read of a repository.
NEEDED_FILES = [
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "mask_embedding.pt",
    "README.md",
]


def download(repository: str, revision: str | None = None) -> Path:
    """The folder of a checkpoint's files in the Hugging Face cache, see ``hf_hub.download``.

    Raises:
        ModelError: it cannot be had, or is no checkpoint; the message says what to do.
    """
    folder = hf_hub.download(repository, NEEDED_FILES, revision)
    missing = hf_hub.missing_files(folder, ("config.json", "*.safetensors"))
    if missing:
        raise ModelError(
            f"{repository} has no {' and no '.join(missing)} in {folder}: another kind of "
            f"repository, or half a download, which `hf download {repository}` completes"
        )
    return folder

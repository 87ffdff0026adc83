"""A Hugging Face model as files: in a folder, or fetched from the hub into its cache."""

from __future__ import annotations

import hashlib
from pathlib import Path

from dflash_local import hub
from dflash_local.errors import ModelError

# Model, tokenizer and chat template; folders in a repository hold other formats.
_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
_NEEDED = ("config.json", "*.safetensors")


def locate(verifier: Path) -> Path:
    """The folder of a model: itself, or, of an id, that in the Hugging Face cache.

    The hub is asked for what is new; without a connection, or with ``HF_HUB_OFFLINE=1``, the cache
    alone serves. huggingface_hub shows its own progress on stderr.

    Raises:
        ModelError: there is no such model, or a part of it is missing.
    """
    folder = verifier if verifier.is_dir() else _download(verifier.as_posix())
    missing = [pattern for pattern in _NEEDED if not any(folder.glob(pattern))]
    if missing:
        raise ModelError(
            f"{verifier} has no {' and no '.join(missing)} in {folder}: expected a Hugging Face "
            "model with safetensors. Half a download is completed by `hf download`"
        )
    return folder


def name_of(folder: Path) -> str:
    """The id of a folder in the Hugging Face cache, the name of another."""
    if folder.parent.name != "snapshots":
        return folder.resolve().name
    return folder.parent.parent.name.removeprefix("models--").replace("--", "/", 1)


def fingerprint(folder: Path) -> str:
    """Tells a model from its other versions, by its files' names, sizes, heads and tails."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _FILES for path in folder.glob(pattern)):
        digest.update(f"{path.name} {hub.fingerprint(path)}\n".encode())
    return digest.hexdigest()[:12]


def _download(repository: str) -> Path:
    from huggingface_hub import constants, snapshot_download

    cache = constants.HF_HUB_CACHE
    try:
        return Path(
            snapshot_download(
                repository, cache_dir=cache, allow_patterns=list(_FILES), ignore_patterns="*/*"
            )
        )
    except Exception as error:  # those of whichever HTTP library: they share no base
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{repository} is no folder here, not in {cache}, and the Hugging Face hub did not "
            f"give it: {reason}\nCheck the name; for a private or gated repository log in first "
            f"(`hf auth login`); without a connection run `hf download {repository}` where there "
            "is one"
        ) from error

"""Verifiers and drafters from the Hugging Face hub: the files that a reference means."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from dflash_local import hf_hub
from dflash_local.convert.reading import repository as checkpoint
from dflash_local.convert.verifiers.verifier import is_later_part
from dflash_local.errors import ModelError
from dflash_local.files.gguf_parts import SPLIT_NAME

from .places import SIDECARS
from .reference import DRAFTER_QUANTS, VERIFIER_QUANTS, Reference, chosen

_NO_VERIFIERS = ("mmproj", "imatrix", "mtp-", "eagle3-", *SIDECARS)


def fetch_verifier(reference: Reference) -> Path:
    """A verifier's GGUF in the Hugging Face cache, downloaded where it is not there.

    Of a split file it is the first part, and all are fetched. A drafter that lies beside it in the
    repository comes with it.

    Raises:
        ModelError: the repository has no such file, or cannot be had.
    """
    files = _gguf_files(reference)
    models = [name for name in files if _may_be_verifier(name)]
    name = chosen(models, reference, VERIFIER_QUANTS)
    sidecars = [file for file in files if file.startswith(SIDECARS)]
    if sidecars:
        wanted = Reference(reference.repository)
        sidecars = [chosen(sidecars, wanted, DRAFTER_QUANTS)]
    return _download(reference, name, [*_parts(name), *sidecars])


def fetch_drafter(reference: Reference) -> Path:
    """A drafter in the Hugging Face cache: its GGUF file, or a folder of safetensors.

    Raises:
        ModelError: the repository has no such file, is no drafter's, or cannot be had.
    """
    files = _gguf_files(reference)
    if not files and reference.choice is None:
        return checkpoint.download(reference.repository)
    name = chosen(files, reference, DRAFTER_QUANTS)
    return _download(reference, name, [name])


def _gguf_files(reference: Reference) -> list[str]:
    return [name for name in hf_hub.files(reference.repository) if name.lower().endswith(".gguf")]


def _may_be_verifier(name: str) -> bool:
    return not name.lower().startswith(_NO_VERIFIERS) and not is_later_part(Path(name))


def _parts(name: str) -> list[str]:
    split = SPLIT_NAME.fullmatch(name)
    if split is None:
        return [name]
    stem, _, count = split.groups()
    return [f"{stem}-{number:05d}-of-{count}.gguf" for number in range(1, int(count) + 1)]


def _download(reference: Reference, name: str, wanted: Sequence[str]) -> Path:
    patterns = [*map(glob.escape, wanted), "README.md"]
    folder = hf_hub.download(reference.repository, patterns)
    missing = hf_hub.missing_files(folder, patterns[:-1])
    if missing:
        raise ModelError(
            f"{reference}: {', '.join(missing)} did not come to {folder}; without a connection "
            "only what was downloaded before is found"
        )
    return folder / name

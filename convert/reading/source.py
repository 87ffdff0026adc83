"""A checkpoint as published: a folder or a repository with config.json and safetensors files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dflash_local.errors import ModelError
from dflash_local.hf_hub import is_repository_id, repository_of

from .json_file import read_json
from .paths import expanded
from .repository import download
from .safetensors_file import StoredTensor
from .weight_files import exists, find_weights, read_weights
from .wrappers import bare_tensors

# Objects in config.json where layouts keep what concerns drafting.
NESTED_SECTIONS = (
    "dflash_config",
    "speculative_config",
    "speculators_config",
    "speculators_metadata",
)


@dataclass(frozen=True)
class Source:
    """An opened checkpoint.

    Attributes:
        location: what the user named: an absolute path, or a Hugging Face id.
        folder: where config.json lies, absolute, symbolic links kept.
        config: config.json, parsed.
        tensors: every tensor, by its published name without a wrapper's prefix.
        files: all files that were read; none of them may be overwritten.
        warnings: what lies there and was not read, one sentence each.
    """

    location: str
    folder: Path
    config: dict[str, Any]
    tensors: dict[str, StoredTensor]
    files: tuple[Path, ...]
    warnings: tuple[str, ...] = ()

    @property
    def sections(self) -> list[dict[str, Any]]:
        """config.json, then the objects in it that concern drafting."""
        found = [self.config, *(self.config.get(name) for name in NESTED_SECTIONS)]
        return [section for section in found if isinstance(section, dict)]

    @property
    def repository(self) -> str | None:
        """The Hugging Face id it came from; None for a folder outside the cache."""
        origin = repository_of(self.folder)
        return None if origin is None else origin[0]

    @property
    def revision(self) -> str | None:
        """The commit of `repository`."""
        origin = repository_of(self.folder)
        return None if origin is None else origin[1]

    @property
    def name(self) -> str:
        """The folder's name; for a snapshot of the Hugging Face cache, the repository's."""
        return (self.repository or self.folder.name).split("/")[-1]

    @property
    def output_folder(self) -> Path:
        """Where to write unless told: its own folder, for a Hugging Face id the working one."""
        return self.folder if Path(self.location).is_absolute() else Path.cwd()


def open_source(path: str | os.PathLike[str], revision: str | None = None) -> Source:
    """Open a folder, a safetensors file with its config.json beside it, or a Hugging Face id.

    Args:
        path: a folder here goes before a repository of the same name.
        revision: branch, tag or commit of a Hugging Face id.

    Raises:
        ModelError: something is missing, damaged or cannot be had; the message says what to do.
    """
    location = expanded(path).absolute()
    if exists(location):
        if revision is not None:
            raise ModelError(f"revision {revision!r}: expected a Hugging Face id, {path} is local")
        return _open_local(str(location), location)
    if not is_repository_id(os.fspath(path)):
        raise ModelError(
            f"{path} does not exist: name a local folder with config.json and model.safetensors, "
            "such a model.safetensors, or a Hugging Face id (owner/name)"
        )
    return _open_local(os.fspath(path), download(os.fspath(path), revision))


def _open_local(named: str, path: Path) -> Source:
    folder = path if path.is_dir() else path.parent
    found = find_weights(path)
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise ModelError(f"{folder} has no config.json: it must lie beside the safetensors file")
    stored, unread = read_weights(found)
    index = () if found.index is None else (found.index,)
    return Source(
        location=named,
        folder=folder,
        config=read_json(config_path),
        tensors=bare_tensors(stored, folder),
        files=(config_path, *index, *found.files),
        warnings=(*found.warnings, *unread),
    )

"""A checkpoint as published: a folder or a repository with config.json and safetensors files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dflash_local.errors import ModelError

from .json_file import read_json
from .paths import expanded
from .repository import download, is_repository_id, repository_of
from .safetensors_file import StoredTensor, read_header

INDEX_NAME = "model.safetensors.index.json"
# Objects in config.json where layouts keep what concerns drafting.
SECTIONS = ("dflash_config", "speculative_config", "speculators_config", "speculators_metadata")


@dataclass(frozen=True)
class Source:
    """An opened checkpoint.

    Attributes:
        location: what the user named: an absolute path, or a Hugging Face id.
        folder: where config.json lies, absolute, symbolic links kept.
        config: config.json, parsed.
        tensors: every tensor of every shard, by its published name.
        files: all files that were read; none of them may be overwritten.
    """

    location: str
    folder: Path
    config: dict[str, Any]
    tensors: dict[str, StoredTensor]
    files: tuple[Path, ...]

    @property
    def sections(self) -> list[dict[str, Any]]:
        """config.json, then the objects in it that concern drafting."""
        found = [self.config, *(self.config.get(name) for name in SECTIONS)]
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
    if _is_there(location):
        if revision is not None:
            raise ModelError(f"revision {revision!r}: expected a Hugging Face id, {path} is local")
        return _open_local(str(location), location)
    if not is_repository_id(os.fspath(path)):
        raise ModelError(
            f"{path} does not exist: name a local folder with config.json and model.safetensors, "
            "such a model.safetensors, or a Hugging Face id (owner/name)"
        )
    return _open_local(os.fspath(path), download(os.fspath(path), revision))


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _is_file(path: Path) -> bool:
    return _is_there(path) and path.is_file()


def _open_local(named: str, path: Path) -> Source:
    folder = path if path.is_dir() else path.parent
    weights = _weight_files(path)
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise ModelError(f"{folder} has no config.json: it must lie beside the safetensors file")
    index = [file for file in (folder / INDEX_NAME,) if file.is_file()]
    files = (config_path, *index, *weights)
    return Source(named, folder, read_json(config_path), _merge(weights), files)


def _weight_files(location: Path) -> list[Path]:
    if location.is_file():
        if location.suffix == ".safetensors":
            index = location.with_name(INDEX_NAME)
            shards = _shards(index) if index.is_file() else []
            return shards if location in shards else [location]
        raise ModelError(
            f"{location} is not a safetensors file. Expected a folder, or model.safetensors "
            "(torch pickles are not read: save them with safetensors first)"
        )
    if (location / "model.safetensors").is_file():
        return [location / "model.safetensors"]
    if (location / INDEX_NAME).is_file():
        return _shards(location / INDEX_NAME)
    found = sorted(file for file in location.glob("*.safetensors") if _is_file(file))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise ModelError(f"{location} has no model.safetensors (safetensors files found: {names})")
    return found


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index} has no `weight_map`: download it again")
    names = sorted({str(name) for name in weight_map.values()})
    # A shard lies beside its index; anything else would be a path out of the checkpoint.
    bad = [name for name in names if Path(name).name != name or not _is_file(index.parent / name)]
    if bad:
        shown = ", ".join(name[:80] for name in bad[:5])
        raise ModelError(f"{index} names {len(bad)} files that are not beside it: {shown}")
    return [index.parent / name for name in names]


def _merge(files: list[Path]) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        header = read_header(file)
        if twice := sorted(tensors.keys() & header.keys()):
            raise ModelError(f"{file}: tensors also in another shard: {', '.join(twice)}")
        tensors.update(header)
    return tensors

"""Which safetensors files hold a checkpoint's weights, and which tensor lies in which of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dflash_local.errors import ModelError

from .fields import raise_problems
from .json_file import read_json
from .safetensors_file import StoredTensor, read_header

SINGLE = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_SHOWN = 5


@dataclass(frozen=True)
class WeightFiles:
    """The files to read.

    Attributes:
        files: safetensors files.
        index: the index that names them; None for a file without one.
        owners: the name of the file that each tensor is in, by the index; empty without one.
        warnings: what else lies there and was not taken, one sentence each.
    """

    files: tuple[Path, ...]
    index: Path | None = None
    owners: Mapping[str, str] | None = None
    warnings: tuple[str, ...] = ()


def find_weights(location: Path) -> WeightFiles:
    """The files of a checkpoint.

    The shards that an index names go before a ``model.safetensors`` beside them: transformers
    removes older shards when it saves one file, and not the file when it saves shards.

    Args:
        location: a folder, or a safetensors file; one that an index names stands for all of them.

    Raises:
        ModelError: there are none, several that nothing tells apart, or shards are missing.
    """
    folder = location if location.is_dir() else location.parent
    try:
        indexed, problem = _indexed(folder), None
    except ModelError as error:
        indexed, problem = None, str(error)
    if location.is_file():
        return _named(location, indexed, problem)
    if indexed is not None:
        return _with_left_out(indexed, folder, f"the {len(indexed.files)} files of {INDEX_NAME}")
    if problem is not None and not (folder / SINGLE).is_file():
        raise ModelError(problem)
    warnings = () if problem is None else (f"{problem}. So read {SINGLE}",)
    file = _only_file(folder)
    return _with_left_out(WeightFiles((file,), warnings=warnings), folder, file.name)


def read_weights(found: WeightFiles) -> tuple[dict[str, StoredTensor], tuple[str, ...]]:
    """Every tensor by its stored name, from the file that the index says; and warnings.

    Raises:
        ModelError: a file is damaged, or lacks what the index says is in it.
    """
    headers = {file.name: read_header(file) for file in found.files}
    if found.index is None or found.owners is None:
        (tensors,) = headers.values()
        return tensors, ()
    raise_problems(found.index, _absent(found.owners, headers))
    tensors = {name: headers[file][name] for name, file in found.owners.items()}
    unlisted = sorted({name for header in headers.values() for name in header} - tensors.keys())
    if not unlisted:
        return tensors, ()
    return tensors, (f"tensors that are not in {INDEX_NAME}, and not read: {_listed(unlisted)}",)


def _absent(
    owners: Mapping[str, str], headers: Mapping[str, Mapping[str, StoredTensor]]
) -> list[str]:
    problems = []
    for name, file in owners.items():
        if name not in headers[file]:
            others = [other for other, header in headers.items() if name in header]
            known = f"; {_listed(others)} has it" if others else ""
            problems.append(f"tensor {name}: the index says {file}, which lacks it{known}")
    return problems


def _indexed(folder: Path) -> WeightFiles | None:
    """What an index names; None without one."""
    index = folder / INDEX_NAME
    if not index.is_file():
        return None
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index} has no `weight_map`: download it again")
    owners = {name: str(file) for name, file in weight_map.items()}
    names = sorted(set(owners.values()))
    # A shard lies beside its index; anything else would be a path out of the checkpoint.
    bad = [name for name in names if Path(name).name != name or not is_file(folder / name)]
    if bad:
        raise ModelError(
            f"{index} names {len(bad)} files that are not beside it: "
            f"{_listed(name[:80] for name in bad)}"
        )
    return WeightFiles(tuple(folder / name for name in names), index, owners)


def _named(file: Path, indexed: WeightFiles | None, problem: str | None) -> WeightFiles:
    if file.suffix != ".safetensors":
        raise ModelError(
            f"{file} is not a safetensors file. Expected a folder, or {SINGLE} "
            "(torch pickles are not read: save them with safetensors first)"
        )
    if indexed is not None and file in indexed.files:
        return indexed
    if problem is not None and file.name != SINGLE:
        raise ModelError(problem)  # a shard is half a checkpoint
    return WeightFiles((file,))


def _only_file(folder: Path) -> Path:
    if (folder / SINGLE).is_file():
        return folder / SINGLE
    found = _safetensors(folder)
    if len(found) == 1:
        return found[0]
    names = ", ".join(file.name for file in found) or "none"
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    advice = "" if found or not pickles else _not_pickles(pickles)
    raise ModelError(f"{folder} has no {SINGLE} (safetensors files found: {names}){advice}")


def _not_pickles(names: list[str]) -> str:
    return f". Torch pickles are not read ({_listed(names)}): save them with safetensors first"


def _with_left_out(found: WeightFiles, folder: Path, read: str) -> WeightFiles:
    left_out = [file.name for file in _safetensors(folder) if file not in found.files]
    if not left_out:
        return found
    said = f"read {read}; beside it, and not read: {_listed(left_out)}. Name a file to read that"
    return WeightFiles(found.files, found.index, found.owners, (*found.warnings, said))


def _safetensors(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.safetensors") if is_file(file))


def _listed(names: Iterable[str]) -> str:
    known = list(names)
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return ", ".join(known[:_SHOWN]) + more


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; none for a name that no file can have."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_file(path: Path) -> bool:
    """Whether it is a file; none for a name that no file can have."""
    return exists(path) and path.is_file()

"""Pairs by short names: those that ship with the package, and the user's own."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dflash_local.errors import ModelError
from dflash_local.files.gguf_header import GGUFHeader
from dflash_local.hf_hub import repository_of
from dflash_local.user_folders import config_dir

from .reference import as_reference

THINKING = ("off", "on", "both")
_SHIPPED = Path(__file__).parent / "registry.toml"
_SEPARATORS = re.compile(r"[\s_-]+")


@dataclass(frozen=True)
class Pair:
    """A verifier and the drafter that was trained for it.

    Attributes:
        name: short, for the command line.
        verifier: a path, or ``owner/repo[:file-or-quant]`` of GGUF files.
        drafter: the same, or a repository of safetensors, or a folder of them.
        base: the repository of the model that the verifier is a GGUF of; the GGUF files that others
            made of it are told by it.
        thinking: whether the drafter was trained on answers that think: "off", "on" or "both"; None
            where its authors do not say.
        verifier_licence: an SPDX identifier, None where none was seen: see the model's card.
        drafter_licence: likewise.
    """

    name: str
    verifier: str
    drafter: str
    base: str | None = None
    thinking: str | None = None
    verifier_licence: str | None = None
    drafter_licence: str | None = None


def pairs() -> dict[str, Pair]:
    """All pairs by name; the user's go before those of the package.

    Raises:
        ModelError: the user's file is wrong; the message lists what.
    """
    own = user_file()
    return {**read_pairs(_SHIPPED), **(read_pairs(own) if own.is_file() else {})}


def user_file() -> Path:
    """The user's own pairs, in the form of the file that ships with the package."""
    return config_dir() / "models.toml"


def read_pairs(path: Path) -> dict[str, Pair]:
    """The pairs of a TOML file, a table each.

    Raises:
        ModelError: it cannot be read; every mistake is listed.
    """
    tables = _tables(path)
    problems = [line for name, table in tables.items() for line in _problems(name, table)]
    if problems:
        raise ModelError(f"{path}:" + "".join(f"\n  - {line}" for line in problems))
    return {name: Pair(name=name, **table) for name, table in tables.items()}


def pairs_of(verifier: Path, known: Mapping[str, Pair]) -> list[Pair]:
    """The pairs whose verifier a GGUF file is, or is another GGUF of.

    Raises:
        ModelError: it is no GGUF file.
    """
    origin = repository_of(verifier.absolute().parent)
    bases = _base_names(GGUFHeader(verifier))
    return [pair for pair in known.values() if _is_of(pair, verifier, origin, bases)]


def _is_of(
    pair: Pair, verifier: Path, origin: tuple[str, str] | None, bases: frozenset[str]
) -> bool:
    reference = as_reference(pair.verifier)
    if reference is None:
        path = Path(pair.verifier).expanduser()
        return path.exists() and path.samefile(verifier)
    if origin is not None and origin[0].lower() == reference.repository.lower():
        return True
    return pair.base is not None and not bases.isdisjoint(
        {_spelling(pair.base), _spelling(pair.base.rpartition("/")[2])}
    )


def _base_names(header: GGUFHeader) -> frozenset[str]:
    """What a GGUF says that it was made of: a repository, a name, or both."""
    url = header.get("general.base_model.0.repo_url")
    named = header.get("general.name")
    repository = "/".join(str(url).rstrip("/").split("/")[-2:]) if url else ""
    return frozenset(_spelling(str(name)) for name in (repository, named) if name)


def _spelling(name: str) -> str:
    """One for "Qwen3 8B" and "Qwen3-8B"."""
    return _SEPARATORS.sub("-", name.strip().lower())


def _tables(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        tables: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: no TOML file that can be read ({error})") from error
    return tables


def _problems(name: str, table: Any) -> list[str]:
    if not isinstance(table, dict):
        return [f"{name} = {table!r}: expected a table, [{name}]"]
    known = [field.name for field in fields(Pair) if field.name != "name"]
    found = [f"[{name}] has no {key}" for key in ("verifier", "drafter") if key not in table]
    for key, value in table.items():
        if key not in known:
            found.append(f"[{name}] {key}: expected one of {', '.join(known)}")
        elif not isinstance(value, str):
            found.append(f"[{name}] {key} = {value!r}: expected a text")
    if table.get("thinking", "off") not in THINKING:
        found.append(f"[{name}] thinking: expected one of {', '.join(THINKING)}")
    return found

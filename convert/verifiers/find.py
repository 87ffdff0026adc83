"""Finding a drafter's verifier where the user did not name it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from dflash_local.errors import ModelError
from dflash_local.hf_hub import cache_folder, is_repository_id

from ..layouts.drafter import DrafterConfig
from ..reading.model_card import model_card
from ..reading.source import Source
from .pair import pair_problems
from .verifier import Verifier, is_later_part, read_verifier

# What trainers call the field that names the verifier, most telling first.
HINT_FIELDS = (
    "verifier",
    "verifier_name_or_path",
    "target_model",
    "target_model_name_or_path",
    "target_model_path",
    "base_model",
    "base_model_name_or_path",
)


def find_verifier(source: Source, config: DrafterConfig) -> Verifier:
    """The one GGUF that fits: in the checkpoint's folder, else in the local Hugging Face cache.

    Raises:
        ModelError: none fits, or several do; it names the command to type.
    """
    seen: list[str] = []
    for files in (_folder_files(source), _named_files(source)):
        fitting = _fitting(files, config, seen)
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            names = ", ".join(str(verifier.path) for verifier in fitting)
            raise ModelError(
                f"several verifiers fit: {names}. Name one:\n  "
                f"{_command(source, str(fitting[0].path))}"
            )
    raise ModelError(_nothing_fits(source, seen))


def verifier_names(source: Source) -> list[str]:
    """What config.json and the model card call the verifier: repositories or paths."""
    return _names(source, (*HINT_FIELDS, "_name_or_path"))


def named_verifiers(source: Source) -> list[str]:
    """The verifier's repositories, where config.json says that they are: no path, no guess."""
    return [name for name in _names(source, HINT_FIELDS) if is_repository_id(name)]


def _names(source: Source, fields: Iterable[str]) -> list[str]:
    values = [section.get(field) for section in source.sections for field in fields]
    values.append(model_card(source.folder).get("base_model"))
    flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
    names = [item.get("name_or_path") if isinstance(item, dict) else item for item in flat]
    return list(dict.fromkeys(name for name in names if isinstance(name, str) and name))


def _folder_files(source: Source) -> list[Path]:
    return sorted(source.folder.glob("*.gguf"))


def _named_files(source: Source) -> list[Path]:
    names = verifier_names(source)
    files = [source.folder / name for name in names if name.endswith(".gguf")]
    for repository in sorted(cache_folder().glob("models--*")):
        if any(_same_model(repository.name, name) for name in names):
            files += sorted(repository.glob("snapshots/*/**/*.gguf"))
    return files


def _same_model(folder: str, name: str) -> bool:
    """Whether a cache folder holds a model or its GGUF edition, whoever made that."""
    repository = folder.removeprefix("models--").replace("--", "/").lower()
    name = name.lower().rstrip("/")
    owner, _, bare = name.rpartition("/")
    edition = re.sub(r"[-_.]gguf$", "", repository.rpartition("/")[2])
    return name == repository or edition in (bare, f"{owner}_{bare}")


def _fitting(files: Iterable[Path], config: DrafterConfig, seen: list[str]) -> list[Verifier]:
    fitting: dict[Path, Verifier] = {}
    for file in files:
        if is_later_part(file) or not file.is_file():
            continue
        try:
            verifier = read_verifier(file)
            problems = pair_problems(config, verifier)
        except ModelError as error:
            problems = [str(error)]
        if problems:
            seen.append(f"{file}: {problems[0]}")
        else:  # snapshots of one file are one file
            fitting.setdefault(file.resolve(), verifier)
    return list(fitting.values())


def _nothing_fits(source: Source, seen: list[str]) -> str:
    names = verifier_names(source)
    named = f", nor one of {', '.join(names)} in {cache_folder()}" if names else ""
    tried = "".join(f"\n  - {line}" for line in seen)
    return (
        f"no verifier found: no GGUF beside {source.folder / 'config.json'} fits{named}.{tried}\n"
        f"Name the verifier's GGUF:\n  {_command(source, 'VERIFIER.gguf')}"
    )


def _command(source: Source, verifier: str) -> str:
    arguments = ["dflash-convert", source.location, "--verifier", verifier]
    return " ".join(shlex.quote(argument) for argument in arguments)

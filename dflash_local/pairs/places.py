"""Where drafters lie on this machine: files and checkpoints that are drafters by what they say."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dflash_local import hf_hub
from dflash_local.errors import ModelError
from dflash_local.files.gguf_header import architecture_of
from dflash_local.files.key_table import ARCHITECTURE
from dflash_local.user_folders import cache_dir

from .checkpoints import is_drafter_checkpoint

#: How llama.cpp, LM Studio and Unsloth name a drafter that lies beside its verifier.
SIDECARS = ("dflash-", "dspark-")
_SHIPPED = Path(__file__).parent.parent / "models"
_log = logging.getLogger("dflash_local")


@dataclass(frozen=True)
class Candidate:
    """A drafter that may fit.

    Attributes:
        path: a GGUF file, or a folder with config.json and safetensors.
        place: in words.
        repository: on the Hugging Face hub; None where it is of none.
    """

    path: Path
    place: str
    repository: str | None = None

    @property
    def is_checkpoint(self) -> bool:
        """Whether it has to be converted."""
        return self.path.is_dir()

    def __str__(self) -> str:
        return self.repository or str(self.path)


def beside(verifier: Path) -> list[Candidate]:
    """The drafters in a verifier's folder; those that are called like sidecars come first."""
    return in_folder(verifier.absolute().parent, "beside the model")


def in_folder(folder: Path, place: str) -> list[Candidate]:
    """The GGUF files of a folder that are drafters, in the same order."""
    files = sorted(
        folder.glob("*.gguf"),
        key=lambda path: (not path.name.startswith(SIDECARS), path.name),
    )
    return _drafters(files, place)


def drafters_folder() -> Path:
    """The part of the cache folder for drafters: those that were converted, and the user's."""
    return cache_dir() / "drafters"


def in_cache_folder() -> list[Candidate]:
    """The drafters of our own cache folder, and the one that ships with the package."""
    own = sorted(drafters_folder().glob("*.gguf"))
    shipped = sorted(_SHIPPED.glob("*.gguf"))
    return [
        *_drafters(own, "in the cache folder"),
        *_drafters(shipped, "in the package"),
    ]


def in_hub_cache(preferred: Iterable[str] = ()) -> list[Candidate]:
    """The drafters of the Hugging Face cache: GGUF files first, but before them some repositories.

    Args:
        preferred: repositories whose drafters come first.
    """
    place, found = "in the Hugging Face cache", []
    for repository, folder in hf_hub.snapshots().items():
        files = _drafters(sorted(folder.glob("*.gguf")), place, repository)
        if not files and is_drafter_checkpoint(folder):
            files = [Candidate(folder, place, repository)]
        found += files
    first = {name.lower() for name in preferred}
    found.sort(key=lambda it: (str(it.repository).lower() not in first, it.is_checkpoint))
    return found


def is_drafter_file(path: Path) -> bool:
    """Whether a GGUF file is a DFlash drafter; False for one that cannot be read, which is logged.

    Its name does not matter.
    """
    try:
        return architecture_of(path) == ARCHITECTURE
    except ModelError as error:
        _log.info("drafters: passed over: %s", error)
        return False


def _drafters(files: Iterable[Path], place: str, repository: str | None = None) -> list[Candidate]:
    return [Candidate(path, place, repository) for path in files if is_drafter_file(path)]

"""What a name means: a path, a pair's short name, or a repository on the Hugging Face hub."""

from __future__ import annotations

import difflib
import logging
import os
from pathlib import Path

from dflash_local.convert.verifiers.verifier import read_verifier
from dflash_local.errors import DFlashError, ModelError

from . import checkpoints, places
from .auto import AUTO
from .fetching import fetch_drafter, fetch_verifier
from .finding import Found, find_drafter
from .reference import as_reference
from .registry import pairs, pairs_of

_log = logging.getLogger("dflash_local")
StrPath = str | os.PathLike[str]


def verifier_file(name: StrPath) -> Path:
    """The GGUF that a name means; a repository's file is downloaded, or taken from the cache.

    Args:
        name: a path, ``owner/repo[:file-or-quant]``, or the short name of a pair.

    Raises:
        ModelError: it is none of them, or cannot be had.
    """
    if (path := _as_path(name)) is not None:
        return path
    name = _pair_part(str(name), "verifier")
    reference = as_reference(name)
    return Path(name).expanduser() if reference is None else fetch_verifier(reference)


def drafter_file(name: StrPath, verifier: Path) -> Path:
    """The GGUF that a drafter's name means; safetensors are converted for the verifier, once.

    Args:
        name: as for ``verifier_file``; also a folder with config.json and safetensors, and "auto"
            for the drafter that is found.

    Raises:
        ModelError: it is none of them, cannot be had, or cannot be converted for this verifier; or
            none is found.
    """
    if name == AUTO:
        return _found(verifier)
    path = _as_path(name)
    if path is None:
        name = _pair_part(str(name), "drafter")
        reference = as_reference(name)
        path = Path(name).expanduser() if reference is None else fetch_drafter(reference)
    if not path.is_dir():
        return path
    return checkpoints.converted(path, read_verifier(verifier), places.drafters_folder())


def is_remote(name: StrPath) -> bool:
    """Whether a name is a pair's or a repository's and no path."""
    return _as_path(name) is None


def fetch_for(verifier: Path) -> None:
    """Downloads the drafter of the pair that a verifier belongs to, unless one is here already.

    Nothing is raised: what cannot be had is logged.
    """
    try:
        if isinstance(find_drafter(verifier), Found):
            return
        for pair in pairs_of(verifier, pairs()):
            reference = as_reference(pair.drafter)
            if reference is not None:
                fetch_drafter(reference)
                return
    except (DFlashError, OSError) as error:
        _log.warning("drafters: none was downloaded for %s: %s", verifier, error)


def _found(verifier: Path) -> Path:
    result = find_drafter(verifier)
    if isinstance(result, Found):
        return result.path
    raise ModelError(result.reason)


def _as_path(name: StrPath) -> Path | None:
    """The path that a name is: that of something which exists, or of what can only be a path."""
    path = Path(name).expanduser()
    if not isinstance(name, str) or path.exists():
        return path
    could_be_name = as_reference(name) is not None or (name and name == path.name)
    return None if could_be_name and not name.lower().endswith(".gguf") else path


def _pair_part(name: str, part: str) -> str:
    """The verifier or the drafter of the pair of this name; a repository is left as it is."""
    if as_reference(name) is not None:
        return name
    known = pairs()
    if name in known:
        return str(getattr(known[name], part))
    close = difflib.get_close_matches(name, known, n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    raise ModelError(
        f"{name!r} is no file here and no pair of that name is known: {guess}expected a path, "
        f"owner/repo[:file-or-quant], or one of {', '.join(known)}"
    )

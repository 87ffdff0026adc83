"""What is on this machine: verifiers, drafters, and which of them fit each other."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dflash_local import hf_hub
from dflash_local.convert.verifiers.pair_files import verifier_info
from dflash_local.convert.verifiers.verifier import Verifier, is_later_part, read_verifier
from dflash_local.errors import ModelError
from dflash_local.files.gguf_header import architecture_of
from dflash_local.files.taps import TAPS
from dflash_local.user_folders import cache_dir

from . import places
from .finding import misfit
from .places import Candidate
from .registry import Pair, pairs, pairs_of

_log = logging.getLogger("dflash_local")


@dataclass(frozen=True)
class Listed:
    """A verifier on this machine.

    Attributes:
        fitting: the drafters here that fit it.
        pairs: names of the pairs that it belongs to.
    """

    path: Path
    fitting: tuple[Candidate, ...]
    pairs: tuple[str, ...]


@dataclass(frozen=True)
class Here:
    """The verifiers that drafters can be used with, and the drafters."""

    verifiers: tuple[Listed, ...]
    drafters: tuple[Candidate, ...]


def here(folders: Iterable[Path] = ()) -> Here:
    """The GGUF files of the caches and of some folders, and checkpoints of the Hugging Face cache.

    What cannot be read is left out, which is logged.

    Raises:
        ModelError: the user's own list of pairs is wrong.
    """
    known = pairs()
    local = [folder.expanduser() for folder in folders]
    drafters = [
        *(drafter for folder in local for drafter in places.in_folder(folder, f"in {folder}")),
        *places.in_cache_folder(),
        *places.in_hub_cache(),
    ]
    searched = [*local, cache_dir(), *hf_hub.snapshots().values()]
    verifiers = _listed(_verifiers(searched), drafters, known)
    return Here(tuple(verifiers), tuple(drafters))


def _verifiers(folders: Iterable[Path]) -> Iterator[Verifier]:
    seen = set()
    for path in (path for folder in folders for path in sorted(folder.glob("*.gguf"))):
        file = path.resolve()
        if file in seen or is_later_part(path):
            continue
        seen.add(file)
        try:
            if architecture_of(path) in TAPS:
                yield read_verifier(path)
        except (ModelError, OSError) as error:
            _log.info("models: left out: %s", error)


def _listed(
    verifiers: Iterable[Verifier], drafters: Sequence[Candidate], known: Mapping[str, Pair]
) -> Iterator[Listed]:
    for verifier in verifiers:
        names = tuple(pair.name for pair in pairs_of(verifier.path, known))
        yield Listed(verifier.path, _fitting(verifier, drafters), names)


def _fitting(verifier: Verifier, drafters: Iterable[Candidate]) -> tuple[Candidate, ...]:
    info, fitting = verifier_info(verifier), []
    for drafter in drafters:
        try:
            if not misfit(drafter, verifier, info):
                fitting.append(drafter)
        except (ModelError, OSError) as error:
            _log.info("models: %s does not do for %s: %s", drafter, verifier.path, error)
    return tuple(fitting)

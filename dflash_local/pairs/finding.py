"""The drafter for a verifier, found by what files say: ``find_drafter``."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dflash_local.convert.verifiers.pair_files import verifier_info
from dflash_local.convert.verifiers.verifier import Verifier, read_verifier
from dflash_local.errors import ModelError
from dflash_local.files.drafter_file import read_drafter
from dflash_local.files.pairing import (
    DrafterInfo,
    VerifierInfo,
    pair_problems,
    pair_warnings,
)
from dflash_local.files.taps import TAPS, why_none

from . import checkpoints, places
from .places import Candidate
from .reference import as_reference
from .registry import Pair, pairs, pairs_of

_log = logging.getLogger("dflash_local")


@dataclass(frozen=True)
class Found:
    """A drafter that fits a verifier.

    Attributes:
        path: its GGUF file, for ``Llama(..., drafter=path)`` or another program.
        place: where it was found, in words: "beside the model", "in the cache folder", "in the
            package", "in the Hugging Face cache" or "named in models.toml".
        origin: the repository on the Hugging Face hub, or the file or folder, that it is from.
        warnings: what works, but was not what it was trained for, a sentence each.
    """

    path: Path
    place: str
    origin: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class NotFound:
    """There is no drafter for a verifier on this machine.

    Attributes:
        reason: what was looked for and what to do, a sentence to be shown to a user.
        passed_over: drafters that were looked at, and why each does not do.
    """

    reason: str
    passed_over: tuple[str, ...] = ()


def find_drafter(path: str | os.PathLike[str]) -> Found | NotFound:
    """Looks for a drafter that fits a verifier's GGUF file; nothing is downloaded or loaded.

    Looked at are the files beside the verifier, the cache folder's ``drafters`` and the package's
    own, the Hugging Face cache, and the files that the user's models.toml names for this verifier,
    in this order. Drafters are told by their metadata, and checked against the verifier's. The
    first that fits is taken; one that fits without warnings goes before its neighbours. A drafter
    in safetensors is converted when it is first found, which takes about as long as copying it, and
    found in the cache folder from then on. What is passed over is logged to ``dflash_local``.

    It raises nothing: a verifier that is no GGUF file has no drafter.
    """
    try:
        search = _Search(Path(path).expanduser())
        return search.found() or NotFound(search.nothing(), tuple(search.passed_over))
    except Exception as error:  # whatever lies in other people's folders is no reason to fail
        _log.info("drafters: the search for %s ended: %r", path, error)
        return NotFound(f"no drafter was found for {path}, so decoding is plain: {error}")


def misfit(candidate: Candidate, verifier: Verifier, info: VerifierInfo) -> list[str]:
    """Every reason why a drafter does not fit a verifier, without converting it.

    Raises:
        ModelError: it is not usable with any verifier.
    """
    if candidate.is_checkpoint:
        return checkpoints.misfit(candidate.path, verifier)
    return pair_problems(read_drafter(candidate.path), info)


class _Search:
    """The search for one verifier.

    Raises:
        ModelError: its file is no verifier's.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._verifier = read_verifier(path)
        self._info = verifier_info(self._verifier)
        self._pairs = _pairs_of(path)
        self.passed_over: list[str] = []

    def found(self) -> Found | None:
        """The drafter, or None."""
        if self._info.architecture not in TAPS:
            return None
        for place in self._places():
            fitting: Found | None = None
            for found in self._fitting(place):
                if not found.warnings:
                    return found
                fitting = fitting or found
            if fitting is not None:
                return fitting
        return None

    def nothing(self) -> str:
        """Why there is none, and what to do."""
        name = self._path.name
        if self._info.architecture not in TAPS:
            return f"{name}: {why_none(self._info.architecture)}; decoding is plain"
        train = f"dflash-local train --verifier {shlex.quote(str(self._path))}"
        fetch = [f"`dflash-local get {pair.name}` fetches one, " for pair in self._pairs[:1]]
        return (
            f"no drafter was found for {name}, so decoding is plain: {''.join(fetch)}"
            f"`{train} --prompts YOURS.jsonl --out my-drafter` trains one (docs/training.md)"
        )

    def _places(self) -> Iterator[Callable[[], list[Candidate]]]:
        known = [as_reference(pair.drafter) for pair in self._pairs]
        repositories = [reference.repository for reference in known if reference is not None]
        yield lambda: places.beside(self._path)
        yield places.in_cache_folder
        yield lambda: places.in_hub_cache(repositories)
        yield lambda: [*_named(self._pairs)]

    def _fitting(self, place: Callable[[], list[Candidate]]) -> Iterator[Found]:
        candidates: list[Candidate] = []
        try:
            candidates = place()
        except Exception as error:  # a folder that may not be read, or is half there
            self._pass_over("a place", error)
        for candidate in candidates:
            try:
                yield self._checked(candidate)
            except Exception as error:
                self._pass_over(candidate, error)

    def _checked(self, candidate: Candidate) -> Found:
        _raise(misfit(candidate, self._verifier, self._info))
        path = candidate.path
        if candidate.is_checkpoint:
            path = checkpoints.converted(path, self._verifier, places.drafters_folder())
        drafter = read_drafter(path)
        _raise(pair_problems(drafter, self._info))
        return self._as_found(candidate, drafter)

    def _as_found(self, candidate: Candidate, drafter: DrafterInfo) -> Found:
        warnings = tuple(pair_warnings(drafter, self._info))
        _log.info("drafters: %s, %s, fits %s", candidate, candidate.place, self._path)
        return Found(drafter.path, candidate.place, str(candidate), warnings)

    def _pass_over(self, what: object, error: Exception) -> None:
        line = f"{what}: {str(error) or type(error).__name__}"
        self.passed_over.append(line)
        _log.info("drafters: passed over for %s: %s", self._path, line)


def _raise(problems: list[str]) -> None:
    if problems:
        raise ModelError("; ".join(problems))


def _pairs_of(verifier: Path) -> list[Pair]:
    try:
        return pairs_of(verifier, pairs())
    except ModelError as error:  # a mistake in the user's own file
        _log.warning("drafters: no pair is known by name: %s", error)
        return []


def _named(known: Iterable[Pair]) -> Iterator[Candidate]:
    """The drafters that pairs name by a path."""
    for pair in known:
        if as_reference(pair.drafter) is None:
            yield Candidate(Path(pair.drafter).expanduser(), "named in models.toml")

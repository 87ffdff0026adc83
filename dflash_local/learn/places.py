"""Where the drafter in use lies, and how a better one takes its place and leaves it again."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import dflash_local
from dflash_local.errors import DFlashError
from dflash_local.files.fingerprint import fingerprint
from dflash_local.record.folder import LEARNED
from dflash_local.record.reading import Record
from dflash_local.whole_files import whole_file

from .options import LearnOptions


@dataclass(frozen=True)
class Places:
    """Files of a pair.

    Attributes:
        verifier: whose answers are learned from.
        drafter: to go on from.
        to: what a better one replaces: the drafter itself. A drafter of this package, one that a
            link leads to, as into the cache of a hub, and one in a folder that may not be written
            are left alone: then it is the file ``drafter.gguf`` in the record's folder, and what
            was learned before is gone on from there.
    """

    verifier: Path
    drafter: Path
    to: Path

    @property
    def before(self) -> Path:
        """The drafter that was in use before the last one took its place."""
        return self.to.with_name(f"{self.to.name}.before")  # nobody takes it for a drafter to use


def find(options: LearnOptions, record: Record) -> Places:
    """By the options, or else by the newest answers.

    Raises:
        DFlashError: the record does not say, or a file is gone or another one now.
    """
    sources = [record.sources[one.source] for one in reversed(record.answers)]
    verifier = options.verifier or next((Path(one.verifier) for one in sources), None)
    if verifier is None:
        raise DFlashError(f"{options.folder}: no answer is recorded here yet")
    _check_file(verifier, "the verifier", "--verifier V.gguf")
    own = fingerprint(verifier)
    used = (one.drafter for one in sources if one.verifier_id == own and one.drafter)
    drafter = options.drafter or next(map(Path, used), None)
    if drafter is None:
        raise DFlashError(
            f"{options.folder}: no drafter was in use when {verifier.name} answered. Learning goes "
            "on from one: name it (--drafter D.gguf), or make one with `dflash-local train`"
        )
    _check_file(drafter, "the drafter", "--drafter D.gguf")
    to = options.to or (drafter if _is_the_users(drafter) else options.folder / LEARNED)
    return Places(verifier, to if options.drafter is None and to.is_file() else drafter, to)


def _check_file(path: Path, what: str, option: str) -> None:
    if not path.is_file():
        raise DFlashError(f"{path}: {what} of the recorded answers is no longer there: {option}")


def _is_the_users(drafter: Path) -> bool:
    packaged = Path(dflash_local.__file__).resolve().parent in drafter.resolve().parents
    return not packaged and not drafter.is_symlink() and os.access(drafter.parent, os.W_OK)


def put_in_place(new: Path, places: Places) -> None:
    """The new drafter becomes the one in use; the old one is kept beside it.

    Whoever opens the file meanwhile, and whatever is interrupted, finds the old one or the new one.
    """
    _copy(places.to if places.to.is_file() else places.drafter, places.before)
    _copy(new, places.to)


def swap_back(places: Places) -> None:
    """The drafter before the last one is in use again; a second time the last one is.

    Raises:
        DFlashError: there is none.
    """
    if not places.before.is_file():
        raise DFlashError(f"{places.before}: no such file: nothing was put in place of a drafter")
    with whole_file(places.before) as part:
        shutil.copyfile(places.to, part)
        _copy(places.before, places.to)


def _copy(source: Path, target: Path) -> None:
    with whole_file(target) as part:
        shutil.copyfile(source, part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())

"""``drafter="auto"``: the drafter that is found, or plain decoding; loading never fails by it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dflash_local.errors import DFlashError

from .finding import Found, find_drafter

AUTO = "auto"
#: Arguments of ``llama_cpp.Llama`` with which nothing of ours drafts.
_WITHOUT = ("draft_model", "vocab_only")


def drafter_for(
    model_path: str | os.PathLike[str], kwargs: Mapping[str, Any], warn: Callable[[str], None]
) -> Path | None:
    """The drafter's file; None, which is warned of, where there is none."""
    if any(kwargs.get(name) for name in _WITHOUT):
        return None
    result = find_drafter(model_path)
    if isinstance(result, Found):
        return result.path
    warn(result.reason)
    return None


@contextlib.contextmanager
def plainly_instead(drafter: Path | None, warn: Callable[[str], None]) -> Iterator[None]:
    """What goes wrong with a drafter that was found is warned of, and decoding is plain."""
    try:
        yield
    except DFlashError as error:
        warn(f"{drafter} was found but cannot be used, so decoding is plain: {error}")

"""A drafter that learns from recorded answers: ``learn(options)``, and ``undo``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dflash_local.lazy import lazy_names

if TYPE_CHECKING:
    from .learning import Outcome, learn, undo
    from .options import LearnOptions

__all__ = ["LearnOptions", "Outcome", "learn", "undo"]

_MODULES = {"learning": ("Outcome", "learn", "undo"), "options": ("LearnOptions",)}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)

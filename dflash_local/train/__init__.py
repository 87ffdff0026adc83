"""Training a drafter for a verifier, from Python: ``train(options)``, or a step at a time.

The only part of the package that imports torch, and only when one of its functions is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dflash_local.lazy import lazy_names

if TYPE_CHECKING:
    from .options import Data, DrafterShape, FitOptions, TrainOptions
    from .progress import Progress
    from .recipe import Summary, export, fit, generate, prompts, simulate, train

__all__ = [
    "Data",
    "DrafterShape",
    "FitOptions",
    "Progress",
    "Summary",
    "TrainOptions",
    "export",
    "fit",
    "generate",
    "prompts",
    "simulate",
    "train",
]

_MODULES = {
    "options": ("Data", "DrafterShape", "FitOptions", "TrainOptions"),
    "progress": ("Progress",),
    "recipe": ("Summary", "export", "fit", "generate", "prompts", "simulate", "train"),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)

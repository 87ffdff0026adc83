"""Trained drafters to GGUF, and what can be done with the result. No torch.

``convert`` writes a drafter's GGUF, ``inspect`` describes one, ``check`` tries it with a verifier,
``compare`` finds what differs between two, ``migrate`` rewrites those of llama.cpp's forks. The
command ``dflash-convert`` does all of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dflash_local.lazy import lazy_names

if TYPE_CHECKING:
    from .checking.comparison import Comparison, compare
    from .checking.drafter_check import CheckReport, check
    from .checking.inspection import DrafterFile, inspect
    from .converter import ConvertReport, convert
    from .migrating.migration import MigrateReport, migrate

__all__ = [
    "CheckReport",
    "Comparison",
    "ConvertReport",
    "DrafterFile",
    "MigrateReport",
    "check",
    "compare",
    "convert",
    "inspect",
    "migrate",
]

_MODULES = {
    "checking.drafter_check": ("CheckReport", "check"),
    "checking.comparison": ("Comparison", "compare"),
    "converter": ("ConvertReport", "convert"),
    "checking.inspection": ("DrafterFile", "inspect"),
    "migrating.migration": ("MigrateReport", "migrate"),
}
# Imported when asked for: `gguf` takes a moment.
__getattr__, __dir__ = lazy_names(__name__, _MODULES)

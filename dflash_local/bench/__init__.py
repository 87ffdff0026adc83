"""Measuring a verifier with and without a drafter, on the machine at hand: ``measure(options)``.

``runner`` produces records (``record``), ``measures`` turns records into figures, ``staircase`` and
``costs`` say where the time goes, ``report``, ``markdown``, ``pictures`` and ``compare`` show it;
``measuring`` puts them together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dflash_local.lazy import lazy_names

if TYPE_CHECKING:
    from .measuring import Report, measure
    from .report import read_report
    from .runner import BenchOptions
    from .suite import Prompt, load_prompts

__all__ = ["BenchOptions", "Prompt", "Report", "load_prompts", "measure", "read_report"]

_MODULES = {
    "measuring": ("Report", "measure"),
    "report": ("read_report",),
    "runner": ("BenchOptions",),
    "suite": ("Prompt", "load_prompts"),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)

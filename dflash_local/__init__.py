"""DFlash speculative decoding for llama.cpp models, in your own process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy import lazy_names

if TYPE_CHECKING:
    from ._core import Draft, Finish, Session, Stats, StepResult
    from .errors import BackendError, Cancelled, ContextError, DFlashError, ModelError
    from .pairs.finding import Found, NotFound, find_drafter
    from .runtime.llama import Llama
    from .runtime.loading import load
    from .runtime.state import LlamaState
    from .runtime.stats import SessionStats

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "Cancelled",
    "ContextError",
    "DFlashError",
    "Draft",
    "Finish",
    "Found",
    "Llama",
    "LlamaState",
    "ModelError",
    "NotFound",
    "Session",
    "SessionStats",
    "Stats",
    "StepResult",
    "__version__",
    "find_drafter",
    "load",
]

_MODULES = {
    "_core": ("Draft", "Finish", "Session", "Stats", "StepResult"),
    "errors": ("BackendError", "Cancelled", "ContextError", "DFlashError", "ModelError"),
    "pairs.finding": ("Found", "NotFound", "find_drafter"),
    "runtime.llama": ("Llama",),
    "runtime.loading": ("load",),
    "runtime.state": ("LlamaState",),
    "runtime.stats": ("SessionStats",),
}
# Programs begin without libllama, and can see to Ctrl-C before it is loaded.
__getattr__, __dir__ = lazy_names(__name__, _MODULES)

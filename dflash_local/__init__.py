"""DFlash speculative decoding for llama.cpp models, in your own process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy import lazy_names

if TYPE_CHECKING:
    from ._core import Draft, Finish, Session, Stats, StepResult
    from .errors import BackendError, Cancelled, ContextError, DFlashError, ModelError
    from .llama import Llama
    from .loading import load
    from .pairs.finding import Found, NotFound, find_drafter
    from .state import LlamaState
    from .stats import SessionStats

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
    "llama": ("Llama",),
    "loading": ("load",),
    "pairs.finding": ("Found", "NotFound", "find_drafter"),
    "state": ("LlamaState",),
    "stats": ("SessionStats",),
}
# Programs begin without libllama, and can see to Ctrl-C before it is loaded.
__getattr__, __dir__ = lazy_names(__name__, _MODULES)

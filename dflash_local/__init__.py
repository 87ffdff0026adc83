"""DFlash speculative decoding for llama.cpp models, in your own process."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._core import Draft, Finish, Session, Stats, StepResult
    from .errors import BackendError, Cancelled, ContextError, DFlashError, ModelError
    from .llama import Llama
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
    "Llama",
    "LlamaState",
    "ModelError",
    "Session",
    "SessionStats",
    "Stats",
    "StepResult",
    "__version__",
]

_MODULES = {
    "_core": ("Draft", "Finish", "Session", "Stats", "StepResult"),
    "errors": ("BackendError", "Cancelled", "ContextError", "DFlashError", "ModelError"),
    "llama": ("Llama",),
    "state": ("LlamaState",),
    "stats": ("SessionStats",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Loads a name's module when it is first asked for.

    Programs begin without libllama, and can see to Ctrl-C before it is loaded.
    """
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_HOME[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""DFlash speculative decoding for llama.cpp models, in your own process."""

from __future__ import annotations

from ._api import connect

connect()

from ._core import Draft, Finish, Session, Stats, StepResult  # noqa: E402
from .errors import BackendError, Cancelled, ContextError, DFlashError, ModelError  # noqa: E402
from .llama import Llama  # noqa: E402
from .state import LlamaState  # noqa: E402
from .stats import SessionStats  # noqa: E402

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

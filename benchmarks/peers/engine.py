"""What every engine is to its process, and how it says that it cannot run."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol


class UnavailableError(Exception):
    """The engine cannot run here; the message says why and what helps."""


class Engine(Protocol):
    """Models loaded and ready."""

    def versions(self) -> dict[str, str]:
        """Of the packages at work."""

    def answer(self, engine: str, width: int, prompt: list[int], max_tokens: int) -> dict[str, Any]:
        """The fields of an ``Answer``."""


def required(name: str, advice: str) -> Any:
    """The module of that name.

    Raises:
        UnavailableError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise UnavailableError(f"{name} cannot be imported ({error}): {advice}") from error

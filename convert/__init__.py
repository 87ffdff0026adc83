"""Trained drafters to GGUF: ``convert()`` and the command ``dflash-convert``. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .converter import ConvertReport, convert

__all__ = ["ConvertReport", "convert"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: `gguf` takes a moment.
    if name in __all__:
        from . import converter

        return getattr(converter, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

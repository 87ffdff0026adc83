"""Trained drafters to GGUF: ``convert()`` and the command ``dflash-convert``. No torch."""

from __future__ import annotations

from .converter import ConvertReport, convert

__all__ = ["ConvertReport", "convert"]

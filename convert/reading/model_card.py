"""What a model card says above its text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf

MAX_BYTES = 1 << 20


def model_card(folder: Path) -> dict[str, Any]:
    """The fields of README.md; none where there is no card, or one that cannot be parsed."""
    path = folder / "README.md"
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return {}
        card: dict[str, Any] = gguf.Metadata.load_model_card(folder)
    except Exception:  # free text: whatever its parser trips over is no obstacle
        return {}
    return card

"""One conversion for the occasion, in F32: its report, or the keys it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import convert_samples as samples
import numpy as np
from dflash_local.convert import ConvertReport, convert


def run(
    tmp_path: Path,
    settings: dict[str, Any] | None = None,
    weights: dict[str, np.ndarray] | None = None,
    **verifier: Any,
) -> ConvertReport:
    """Convert a checkpoint written for the occasion, in F32."""
    source = samples.checkpoint(tmp_path / "drafter", settings, weights)
    target = samples.verifier(tmp_path / "verifier.gguf", **verifier)
    return convert(source, target, tmp_path / "d.gguf", outtype="f32")


def keys_of(tmp_path: Path, settings: dict[str, Any], **verifier: Any) -> dict[str, Any]:
    """The keys such a conversion writes, without the prefix ``dflash.``."""
    keys, _ = samples.read(run(tmp_path, settings, **verifier).output)
    return {name.removeprefix("dflash."): value for name, value in keys.items()}

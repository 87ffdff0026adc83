"""Telling model files from each other without reading all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from .gguf_parts import parts_of

_HASHED_BYTES = 1 << 20
_SAMPLES, _SAMPLE_BYTES = 2048, 1024


def fingerprint(path: Path) -> str:
    """Tells a model file from its other versions and its fine-tunes: size, head, tail, samples.

    Samples lie at equal distances, a 2048th of the file apart: what was trained further shows
    wherever it is larger than that. A file of many gigabytes takes milliseconds. Of a split model
    all parts count.
    """
    digest = hashlib.sha256()
    for part in parts_of(path):
        digest.update(release(part).encode())
        for sample in _samples(part):
            digest.update(sample)
    return digest.hexdigest()[:12]


def _samples(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    with path.open("rb", buffering=0) as file:
        for sample in range(_SAMPLES):
            file.seek(size * sample // _SAMPLES)
            yield file.read(_SAMPLE_BYTES)


def release(path: Path) -> str:
    """Tells a published file from its other versions, by size, head and tail."""
    # The head holds all metadata, the tail the last weights: enough to tell releases apart, and
    # unlike a time stamp equal in every environment that has the package.
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(_HASHED_BYTES))
        file.seek(max(size - _HASHED_BYTES, 0))
        digest.update(file.read())
    return digest.hexdigest()[:12]

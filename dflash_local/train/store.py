"""Readings kept on disk, so that a text is read once and trained on many times."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .capture import Reading

_INDEX = "index.jsonl"


class Store:
    """Readings by a key, in a folder: features as BF16, the rest beside them.

    Written one after another. What an interruption cut off is not in the index and is written over.

    Args:
        folder: made when needed.
        n_features, top_k: of all readings in it.
        max_bytes: no more than that is kept; readings beyond are made again each time.
    """

    def __init__(self, folder: Path, n_features: int, top_k: int, max_bytes: int) -> None:
        self._folder = folder
        self._n_features = n_features
        self._top_k = top_k
        self._max_bytes = max_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self._places: dict[str, tuple[int, int]] = {}  # key: first row, rows
        self._n_rows = 0
        self._read_index()

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    @property
    def row_bytes(self) -> int:
        """On disk, of one token."""
        return 2 * self._n_features + 8 * self._top_k

    def has_room(self, n_rows: int) -> bool:
        """Whether so many more tokens may be kept."""
        return (self._n_rows + n_rows) * self.row_bytes <= self._max_bytes

    def put(self, key: str, reading: Reading) -> None:
        """Keeps a reading. The index is written last."""
        for name, values in _columns(reading).items():
            with self._file(name).open("r+b" if self._file(name).exists() else "wb") as file:
                file.seek(self._n_rows * values[0].nbytes)
                file.write(values.tobytes())
        entry: list[str | int] = [key, self._n_rows, len(reading.ids)]
        with (self._folder / _INDEX).open("a", encoding="utf-8") as index:
            index.write(json.dumps(entry) + "\n")
        self._add(entry)

    def get(self, key: str) -> Reading:
        """A reading that was kept; its features as BF16 can hold them."""
        first, n = self._places[key]

        def column(name: str, dtype: str, width: int) -> npt.NDArray[np.generic]:
            kept = np.memmap(self._file(name), dtype, "r", shape=(self._n_rows, width))
            return np.asarray(kept[first : first + n])

        features = column("features", "<u2", self._n_features).astype(np.uint32) << np.uint32(16)
        return Reading(
            features=features.view(np.float32),
            ids=column("ids", "<i4", self._top_k).astype(np.int32),
            log_probs=column("log_probs", "<f4", self._top_k).astype(np.float32),
        )

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.bin"

    def _read_index(self) -> None:
        path = self._folder / _INDEX
        if not path.is_file():
            return
        *whole, _torn = path.read_text(encoding="utf-8").split("\n")
        path.write_text("".join(line + "\n" for line in whole), encoding="utf-8")
        for line in whole:
            self._add(json.loads(line))

    def _add(self, entry: list[str | int]) -> None:
        key, first, n = str(entry[0]), int(entry[1]), int(entry[2])
        self._places[key] = (first, n)
        self._n_rows = max(self._n_rows, first + n)


def _columns(reading: Reading) -> dict[str, npt.NDArray[np.generic]]:
    return {
        "features": to_bf16(reading.features),
        "ids": reading.ids.astype("<i4"),
        "log_probs": reading.log_probs.astype("<f4"),
    }


def to_bf16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return np.asarray(rounded >> np.uint32(16), np.uint16)

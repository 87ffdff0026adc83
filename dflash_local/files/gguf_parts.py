"""The files of a GGUF model that was split."""

from __future__ import annotations

import re
from pathlib import Path

from dflash_local.errors import ModelError

SPLIT_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


def parts_of(path: Path) -> list[Path]:
    """The file itself, or all parts of a split one of which any part is named.

    The first part is given though it may not be there, a later one only where it is.

    Raises:
        ModelError: the name is that of a part that cannot be.
    """
    split = SPLIT_NAME.fullmatch(path.name)
    if split is None:
        return [path]
    stem, number, count = split.groups()
    if not 1 <= int(number) <= int(count):
        raise ModelError(f"{path}: part {number} of {count} does not exist; expected one of them")
    paths = [path.with_name(f"{stem}-{i:05d}-of-{count}.gguf") for i in range(1, int(count) + 1)]
    return [paths[0], *(part for part in paths[1:] if part.is_file())]

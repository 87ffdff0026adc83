"""Changed copies of the tiny drafters, and a pair of files that fits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from gguf_contents import TOKENS, Contents

from dflash_local.files import pairing
from dflash_local.files.drafter_file import DrafterInfo, read_drafter
from dflash_local.files.gguf_header import GGUFHeader

PROSE = "the brown"

Edit = Callable[[Contents], object]


@pytest.fixture
def edited(tmp_path: Path, tiny_drafters: dict[str, Path]) -> Callable[..., Path]:
    """edited(edit, name="dflash-b8"): the path of a changed copy of a tiny drafter."""
    paths = (tmp_path / f"edited-{i}.gguf" for i in range(1000))

    def make(edit: Edit, name: str = "dflash-b8") -> Path:
        contents = Contents(tiny_drafters[name])
        edit(contents)
        return contents.write(next(paths))

    return make


@pytest.fixture
def info(tiny_drafters: dict[str, Path]) -> DrafterInfo:
    return read_drafter(tiny_drafters["dflash-b8"])


@pytest.fixture
def verifier(tiny_verifier: Path) -> pairing.VerifierInfo:
    header = GGUFHeader(tiny_verifier)
    return pairing.VerifierInfo(
        tiny_verifier,
        "llama",
        header.get("llama.embedding_length"),
        header.get("llama.block_count"),
        header.get(TOKENS),
        header.get("tokenizer.chat_template"),
    )


def set_key(key: str, value: Any, kind: gguf.GGUFValueType | None = None) -> Edit:
    return lambda c: c.set(key, value, kind)


STRING = gguf.GGUFValueType.STRING

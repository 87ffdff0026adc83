"""The table of ``dflash.*`` keys: what the code names, what is written, and what libllama knows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import gguf
import llama_cpp
import pytest
from dflash_local.convert.layouts.registry import detect
from dflash_local.convert.reading.source import open_source
from dflash_local.convert.writing.keys import drafter_keys
from layout_files import write_checkpoint
from layout_samples import SAMPLES

from dflash_local.files.key_table import (
    ARCHITECTURE,
    FOREIGN_KEYS,
    KEYS,
    KeyRow,
    Reader,
)

ROOT = Path(__file__).parents[2]
ALL = {**KEYS, **FOREIGN_KEYS}
#: Names of files and forks' keys, which migration renames: no keys of upstream's.
OTHER_NAMES = {"target_layer_ids", "fc.weight", "hidden_norm.weight", "model"}
LITERAL = re.compile(rf'"{ARCHITECTURE}\.([a-z0-9_.]+[a-z0-9])"')


def _literals() -> Iterator[tuple[str, str]]:
    for folder in ("dflash_local", "convert"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for found in LITERAL.finditer(path.read_text("utf-8")):
                yield found.group(1), f"{path.relative_to(ROOT)}"


def test_every_key_that_the_code_names_is_in_the_table() -> None:
    named = list(_literals())
    assert len(named) > 30
    assert [n for n in named if n[0] not in ALL and n[0] not in OTHER_NAMES] == []


def test_no_key_is_in_both_tables() -> None:
    assert KEYS.keys() & FOREIGN_KEYS.keys() == set()
    assert all(name == row.name for name, row in ALL.items())


@pytest.mark.parametrize("name", SAMPLES)
def test_every_layout_writes_keys_of_the_table_in_its_types(name: str, tmp_path: Path) -> None:
    source = open_source(write_checkpoint(tmp_path / "c", SAMPLES[name]))
    config = detect(source).parse_config(source)
    keys = drafter_keys(config, mrope=True)
    for key in keys:
        row = KEYS[key.name.removeprefix(f"{ARCHITECTURE}.")]
        assert (key.type, key.item) == (row.type, row.item)
    written = {key.name for key in keys}
    assert {row.key for row in KEYS.values() if row.required} <= written


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "models").glob("d*.gguf")), ids=str)
def test_files_have_keys_of_the_table_in_its_types(path: Path) -> None:
    prefix = f"{ARCHITECTURE}."
    fields = gguf.GGUFReader(path).fields
    for name, field in fields.items():
        if name.startswith(prefix):
            row = KEYS[name.removeprefix(prefix)]
            assert field.types == [row.type] + ([] if row.item is None else [row.item])


def _libllama() -> bytes:
    folder = Path(llama_cpp.__file__).parent / "lib"
    files = [p for p in folder.iterdir() if re.fullmatch(r"(lib)?llama\.(so|dylib|dll)", p.name)]
    return files[0].read_bytes()


def test_libllama_knows_every_key_that_it_is_said_to_read() -> None:
    library = _libllama()

    def known(row: KeyRow) -> bool:
        return any(f"{begin}.{row.name}\0".encode() in library for begin in ("%s", ARCHITECTURE))

    read = [row for row in ALL.values() if Reader.LIBLLAMA in row.reader]
    # It compares this one with a text that its compiler has taken apart.
    assert [row.name for row in read if not known(row)] in ([], ["sample_from_anchor"])


@pytest.mark.parametrize("row", ALL.values(), ids=ALL)
def test_a_row_agrees_with_itself(row: KeyRow) -> None:
    is_array = row.type == gguf.GGUFValueType.ARRAY
    assert (row.item is not None) == is_array
    numbers = (gguf.GGUFValueType.UINT32, gguf.GGUFValueType.FLOAT32)
    assert row.between is None or row.type in numbers
    assert not row.choices or row.default in row.choices
    assert not (row.required and row.default is not None)

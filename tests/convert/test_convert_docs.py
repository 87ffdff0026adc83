"""docs/convert.md: its commands are understood, its outputs are those of the demo pair."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from dflash_local.convert import cli, convert
from dflash_local.convert.layouts.registry import LAYOUTS
from dflash_local.convert.writing.encode import OUT_TYPES

ROOT = Path(__file__).parents[2]
DOCS, DRAFTERS = ROOT / "docs" / "convert.md", ROOT / "drafters"
TEXT = DOCS.read_text("utf-8")
FENCES = re.findall(r"^```\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
COMMANDS = [
    line.removeprefix("$ ")
    for fence in FENCES
    for line in fence.replace("\\\n", " ").splitlines()  # a command may go on in the next line
    if re.match(r"(\$ )?dflash-convert ", line) and "warning:" not in line
]


def test_the_commands_are_found() -> None:
    assert len(COMMANDS) >= 7
    assert {verb for verb in cli.VERBS if any(f" {verb} " in c for c in COMMANDS)} >= {
        "show",
        "check",
        "compare",
        "migrate",
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_understood(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where none of its files are
    arguments = shlex.split(command)[1:]
    if arguments[0] not in cli.VERBS:
        (tmp_path / arguments[0]).mkdir(parents=True)  # or it would be looked for on the hub
    assert cli.main(arguments) in (1, 2)  # wrong usage would be SystemExit


def test_the_table_of_layouts_names_every_architecture() -> None:
    names = {name for layout in LAYOUTS for name in layout.architectures}
    assert {name for name in names if f"`{name}`" not in TEXT} == set()


def test_every_output_type_is_named() -> None:
    assert {name for name in OUT_TYPES if name not in TEXT} == set()


def test_show_prints_what_the_docs_say(
    smollm2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    converted = convert(DRAFTERS / "smollm2-135m-dflash", smollm2, tmp_path / "demo.gguf")
    assert cli.main(["show", str(converted.output)]) == 0
    printed = set(capsys.readouterr().out.splitlines())
    shown = next(fence for fence in FENCES if fence.startswith("$ dflash-convert show"))
    # The file's name, and what later versions of the converter tell of its origin.
    lines = [line for line in shown.splitlines()[2:] if not line.startswith(("made for", "origin"))]
    assert len(lines) == 10
    assert set(lines) <= printed

"""docs/structure.md names what is there, and all folders of the code."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "structure.md").read_text(encoding="utf-8")
#: Folders whose parts are no map's business.
PARTS = ("benchmarks/", "drafters/", "tests/")


def named() -> set[str]:
    """What stands there as code and is a path: it has a slash, or an ending of a file."""
    code = re.findall(r"`([^`\s]+)`", PAGE)
    return {name for name in code if "/" in name or name.endswith((".py", ".md", ".cpp", ".h"))}


def folders() -> set[str]:
    """Those that hold code, as they are written on the page."""
    tops = [ROOT / name for name in ("benchmarks", "convert", "cpp", "dflash_local", "tests")]
    files = [path for top in tops for end in ("*.py", "*.cpp") for path in top.rglob(end)]
    return {path.parent.relative_to(ROOT).as_posix() for path in files}


def test_every_path_on_the_page_is_there() -> None:
    assert len(named()) > 50
    assert [name for name in sorted(named()) if not (ROOT / name).exists()] == []


def test_every_folder_of_the_code_is_on_the_page() -> None:
    code = set(re.findall(r"`([^`\s]+)`", PAGE))
    wanted = {folder for folder in folders() if not folder.startswith(PARTS)}
    assert wanted - code == set()


def test_functions_on_the_page_are_where_it_says() -> None:
    assert "StepResult Session::step(" in (ROOT / "cpp/core/session.cpp").read_text("utf-8")
    generation = (ROOT / "dflash_local/runtime/generation.py").read_text("utf-8")
    assert "class WholeSteps:" in generation
    assert "class RowSteps:" in generation

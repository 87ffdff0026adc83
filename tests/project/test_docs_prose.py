"""Pages are read in editors and terminals too: their lines are short."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "drafters").rglob("README.md")),
]
MOST = 100


def prose(page: Path) -> list[str]:
    """The lines of a page but tables, examples, and links that cannot be broken."""
    lines, in_example = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("```"):
            in_example = not in_example
        elif not in_example and not line.startswith("|") and "](http" not in line:
            lines.append(line)
    return lines


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_lines_are_short(page: Path) -> None:
    assert [line for line in prose(page) if len(line) > MOST] == []

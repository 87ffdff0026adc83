"""The table of docs/verifiers.md is what the code does, and the tests have tried."""

from __future__ import annotations

import pytest
import verifiers_page

from dflash_local.files.taps import TAPS


@pytest.fixture(scope="module")
def back() -> dict[str, str]:
    """How drafts are taken back, by architecture."""
    try:
        return verifiers_page.how_drafts_are_taken_back()
    except AttributeError:
        pytest.skip("this libllama hides what it knows of architectures")


def test_the_table_on_the_page_is_that_of_the_code(back: dict[str, str]) -> None:
    assert back
    _, rows, _ = verifiers_page.split(verifiers_page.PAGE.read_text(encoding="utf-8"))
    assert rows == verifiers_page.table(), "run: python tests/support/verifiers_page.py"


def test_libllama_has_every_architecture_of_the_table_of_taps(back: dict[str, str]) -> None:
    assert sorted(TAPS.keys() - back.keys()) == []


def test_every_callback_wastried(back: dict[str, str]) -> None:
    """What a node's name means is known by trying only."""
    assert back
    untried = [name for name, tap in TAPS.items() if tap.node and not verifiers_page.tried(name)]
    assert untried == []

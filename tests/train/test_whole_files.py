"""Files that are whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from dflash_local.whole_files import whole_file, write_whole


@pytest.mark.parametrize("alone", [False, True])
def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path: Path, alone: bool) -> None:
    file = tmp_path / "report.json"
    file.write_text("old")
    with whole_file(file, alone=alone) as part:
        part.write_text("half")
        assert file.read_text() == "old"
        part.write_text("new")
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_nothing_partial_stays_behind(tmp_path: Path) -> None:
    file = tmp_path / "drafter.gguf"

    def interrupted() -> None:
        with whole_file(file) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_two_may_write_one_file(tmp_path: Path) -> None:
    file = tmp_path / "learned.json"
    with whole_file(file) as one, whole_file(file) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert file.read_text() == "one", "the last to end"


def test_what_a_killed_process_left_is_written_over(tmp_path: Path) -> None:
    file = tmp_path / "training.pt"
    with whole_file(file, alone=True) as part:
        part.write_text("whole")
    part.write_text("half, of one that was killed")
    write_whole(file, "new", alone=True)
    assert (file.read_text(), list(tmp_path.iterdir())) == ("new", [file])

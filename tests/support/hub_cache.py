"""A Hugging Face cache as downloads leave it, laid out by tests: nobody is online."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

COMMIT = "c" * 40


class HubCache:
    """Repositories of one commit each in a folder, which huggingface_hub takes for its cache."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def add(self, repository: str, files: dict[str, Path]) -> Path:
        """Adds a repository with copies of files under other names; returns its folder."""
        root = self.folder / ("models--" + repository.replace("/", "--"))
        snapshot = root / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        (root / "refs").mkdir()
        (root / "refs" / "main").write_text(COMMIT)
        for name, path in files.items():
            shutil.copy(path, snapshot / name)
        return snapshot

"""The tiny verifier as transformers reads it and as libllama does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import training
from tiny_hf import write_model
from training import VERIFIER

from dflash_local.train.verifiers.gguf_verifier import GGUFVerifier
from dflash_local.train.verifiers.hf_verifier import HfVerifier
from dflash_local.train.verifiers.verifier import Verifier

MESSAGES = [{"role": "user", "content": "Who is anna? In 1984, <|im_end|> für 2 €"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("hf") / "tiny")


@pytest.fixture(scope="module")
def verifier(folder: Path) -> Verifier:
    return HfVerifier(folder)


@pytest.fixture(scope="module")
def gguf() -> Verifier:
    return GGUFVerifier(VERIFIER, 1, 0)


@pytest.fixture(scope="module")
def texts() -> list[Any]:
    """Eight, with prompts of different lengths."""
    return training.answers()[::4][:8]


def changed(folder: Path, target: Path, **config: Any) -> Path:
    """A copy of a model with other fields in config.json."""
    shutil.copytree(folder, target)
    fields = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(fields | config))
    return target

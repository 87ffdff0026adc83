"""Checkpoints named by a Hugging Face id, out of a cache that the tests lay out: no network."""

from __future__ import annotations

import re
from pathlib import Path

import convert_samples as samples
import pytest
from dflash_local.convert import convert
from dflash_local.convert.reading.repository import NEEDED_FILES
from dflash_local.convert.reading.source import open_source
from huggingface_hub import constants
from huggingface_hub.utils import filter_repo_objects

from dflash_local.errors import ModelError
from dflash_local.hf_hub import is_repository_id, repository_of

ID = "some-lab/Tiny-4B-DFlash"
OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with two commits of a repository, the main branch at the later; nobody is online."""
    folder = tmp_path / "hub" / "models--some-lab--Tiny-4B-DFlash"
    for commit, n_ctx in ((OLD, 1024), (NEW, 4096)):
        settings = samples.config(max_position_embeddings=n_ctx)
        samples.checkpoint(folder / "snapshots" / commit, settings)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(NEW)
    (folder / "refs" / "v1").write_text(OLD)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return folder


def n_ctx(source: str, revision: str | None = None) -> object:
    return open_source(source, revision).config["max_position_embeddings"]


def test_an_id_is_taken_from_the_cache_offline() -> None:
    assert n_ctx(ID) == 4096
    source = open_source(ID)
    assert (source.location, source.repository, source.revision) == (ID, ID, NEW)
    assert source.name == "Tiny-4B-DFlash"


@pytest.mark.parametrize("revision", ["v1", OLD])
def test_a_revision_is_a_branch_a_tag_or_a_commit(revision: str) -> None:
    assert n_ctx(ID, revision) == 1024


def test_without_a_connection_the_cache_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert n_ctx(ID) == 4096
    assert n_ctx(ID, OLD) == 1024


def test_what_is_not_in_the_cache_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        open_source("other/Model")
    for words in (
        "other/Model is no folder here",
        str(tmp_path / "hub"),
        "hf download other/Model",
    ):
        assert words in str(caught.value)
    with pytest.raises(ModelError, match=r"Tiny-4B-DFlash at revision 'v9' is no folder here"):
        open_source(ID, "v9")


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors"])
def test_half_a_download_is_no_checkpoint(cache: Path, lost: str) -> None:
    (cache / "snapshots" / NEW / lost).unlink()
    missing = "*.safetensors" if lost.endswith("safetensors") else lost
    with pytest.raises(ModelError, match=re.escape(f"{ID} has no {missing} in")):
        open_source(ID)


def test_a_folder_here_goes_before_a_repository_and_has_no_revision(tmp_path: Path) -> None:
    samples.checkpoint(tmp_path / ID)
    assert open_source(ID).folder == tmp_path / ID
    assert open_source(ID).repository is None
    with pytest.raises(ModelError, match=r"revision 'v1': expected a Hugging Face id"):
        open_source(ID, "v1")


def test_the_output_of_an_id_lies_in_the_working_folder(tmp_path: Path, cache: Path) -> None:
    target = samples.verifier(tmp_path / "v.gguf")
    report = convert(ID, target, revision="v1")
    assert report.output == tmp_path / "Tiny-4B-DFlash-bf16.gguf"
    assert samples.names(cache / "snapshots" / OLD) == ["config.json", "model.safetensors"]
    assert samples.read(report.output)[0]["dflash.context_length"] == 1024


def test_a_snapshot_named_as_a_folder_has_the_same_origin(tmp_path: Path, cache: Path) -> None:
    assert repository_of(cache / "snapshots" / OLD) == (ID, OLD)
    assert repository_of(tmp_path / "snapshots" / OLD) is None
    assert repository_of(tmp_path / "models--a--b") is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("z-lab/Qwen3-4B-DFlash-b16", True),
        ("a/b_c.d", True),
        ("gpt2", False),
        ("./a", False),
        ("../a", False),
        ("/a/b", False),
        ("~/b", False),
        ("a/b/c", False),
        ("a\\b", False),
        ("a b/c", False),
    ],
)
def test_ids_are_told_from_paths(name: str, expected: bool) -> None:
    assert is_repository_id(name) is expected


def test_only_what_is_needed_is_downloaded() -> None:
    files = [
        ".gitattributes",
        "LICENSE",
        "README.md",
        "assets/speedup.png",
        "config.json",
        "mask_embedding.pt",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "mlx/model.safetensors",
        "pytorch_model.bin",
        "tokenizer.json",
    ]
    kept = filter_repo_objects(files, allow_patterns=NEEDED_FILES, ignore_patterns="*/*")
    assert list(kept) == ["README.md", *files[4:8]]

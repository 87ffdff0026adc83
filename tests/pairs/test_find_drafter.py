"""Drafters found by what files say, in the order of the places, and ``drafter="auto"``."""

from __future__ import annotations

import contextlib
import logging
import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

import convert_samples as samples
import pytest
from conftest import MODELS, MakeLlama
from hub_cache import HubCache

from dflash_local import BackendError, Found, Llama, NotFound, find_drafter
from dflash_local.pairs import places
from dflash_local.pairs.registry import user_file

PROMPT = b"Who is anna?"


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubCache:
    """Caches and configuration of the test alone, empty."""
    monkeypatch.setenv("DFLASH_LOCAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DFLASH_LOCAL_CONFIG", str(tmp_path / "config"))
    return HubCache(tmp_path / "hub", monkeypatch)


@pytest.fixture
def verifier(tmp_path: Path, tiny_verifier: Path) -> Path:
    """A copy of the tiny verifier, alone in its folder."""
    (tmp_path / "model").mkdir()
    return Path(shutil.copy(tiny_verifier, tmp_path / "model" / "tiny.gguf"))


@pytest.fixture
def drafter(tiny_drafters: dict[str, Path]) -> Path:
    return tiny_drafters["dflash-b8"]


def found(verifier: Path) -> Found:
    result = find_drafter(verifier)
    assert isinstance(result, Found), result
    return result


def nothing(verifier: Path) -> NotFound:
    result = find_drafter(verifier)
    assert isinstance(result, NotFound), result
    return result


# ---- the places --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dflash-tiny.gguf", "dspark-tiny.gguf", "anything.gguf"])
def test_a_drafter_beside_the_model_is_told_by_its_metadata(
    verifier: Path, drafter: Path, name: str
) -> None:
    sidecar = Path(shutil.copy(drafter, verifier.parent / name))
    assert found(verifier) == Found(sidecar, "beside the model", str(sidecar))


def test_a_name_makes_no_drafter(verifier: Path) -> None:
    shutil.copy(verifier, verifier.parent / "dflash-tiny.gguf")
    (other,) = nothing(verifier).passed_over  # the package's own alone was looked at
    assert "smollm2" in other


def test_what_is_called_like_a_sidecar_goes_first(verifier: Path, drafter: Path) -> None:
    for name in ("a.gguf", "dflash-z.gguf"):
        shutil.copy(drafter, verifier.parent / name)
    assert found(verifier).path.name == "dflash-z.gguf"


def test_places_are_searched_in_order(verifier: Path, drafter: Path, hub: HubCache) -> None:
    _user_pair(verifier, drafter)
    assert found(verifier).place == "named in models.toml"
    hub.add("some-lab/Tiny-DFlash-GGUF", {"tiny.gguf": drafter})
    assert found(verifier).place == "in the Hugging Face cache"
    assert found(verifier).origin == "some-lab/Tiny-DFlash-GGUF"
    places.drafters_folder().mkdir(parents=True)
    shutil.copy(drafter, places.drafters_folder() / "own.gguf")
    assert found(verifier).place == "in the cache folder"
    shutil.copy(drafter, verifier.parent / "dflash-tiny.gguf")
    assert found(verifier).place == "beside the model"


def test_of_several_in_the_hub_cache_the_pairs_own_is_taken(
    verifier: Path, drafter: Path, hub: HubCache
) -> None:
    hub.add("a-lab/Other", {"a.gguf": drafter})
    hub.add("z-lab/Mine", {"z.gguf": drafter})
    _user_pair(verifier, "z-lab/Mine")
    assert found(verifier).origin == "z-lab/Mine"


def test_a_checkpoint_is_converted_once_and_drafts(
    verifier: Path, hub: HubCache, make_llama: MakeLlama
) -> None:
    folder = MODELS / "dflash-b8"
    hub.add("some-lab/Tiny-DFlash", {path.name: path for path in folder.iterdir()})
    first = found(verifier)
    assert first.place == "in the Hugging Face cache"
    assert first.origin == "some-lab/Tiny-DFlash"
    assert first.path.parent == places.drafters_folder()
    made = first.path.stat()
    second = found(verifier)
    assert (second.path, second.place) == (first.path, "in the cache folder")
    assert second.path.stat().st_mtime_ns == made.st_mtime_ns

    llm = make_llama(Llama, verifier, drafter="auto", width=7)
    assert llm.drafter_path == first.path
    plain = make_llama(Llama, verifier)
    assert _answer(llm) == _answer(plain)
    assert llm.stats.last.n_accepted > 0


def test_the_package_has_the_demos_drafter(smollm2: Path) -> None:
    result = found(smollm2)
    assert result.path.name.startswith("smollm2-135m-dflash")
    assert result.place in ("in the package", "beside the model")


# ---- what does not do --------------------------------------------------------------------------


def test_what_does_not_fit_is_passed_over_and_logged(
    tmp_path: Path, drafter: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = samples.verifier(tmp_path / "other" / "other.gguf")
    sidecar = Path(shutil.copy(drafter, other.parent / "dflash-tiny.gguf"))
    with caplog.at_level(logging.INFO, logger="dflash_local"):
        result = nothing(other)
    mine = [line for line in result.passed_over if line.startswith(str(sidecar))]
    assert len(mine) == 1
    assert "vocabulary: the drafter has 384 tokens, the verifier 260" in mine[0]
    assert any(mine[0] in record.getMessage() for record in caplog.records)
    assert {record.name for record in caplog.records} == {"dflash_local"}


@pytest.mark.parametrize("size", [0, 3, 100, 50_000])
def test_a_damaged_drafter_is_passed_over(verifier: Path, drafter: Path, size: int) -> None:
    damaged = verifier.parent / "dflash-a.gguf"
    damaged.write_bytes(drafter.read_bytes()[:size])
    good = Path(shutil.copy(drafter, verifier.parent / "dflash-b.gguf"))
    assert found(verifier).path == good


def test_a_checkpoint_for_another_verifier_is_not_converted(hub: HubCache, tmp_path: Path) -> None:
    other = samples.verifier(tmp_path / "other" / "other.gguf")
    folder = MODELS / "dflash-b8"
    hub.add("some-lab/Tiny-DFlash", {path.name: path for path in folder.iterdir()})
    result = nothing(other)
    assert any(line.startswith("some-lab/Tiny-DFlash: ") for line in result.passed_over)
    assert not places.drafters_folder().exists()


def test_half_a_checkpoint_is_passed_over(verifier: Path, hub: HubCache) -> None:
    config = MODELS / "dflash-b8" / "config.json"
    folder = hub.add("some-lab/Tiny-DFlash", {"config.json": config})
    (folder / "model.safetensors").write_bytes(b"\0" * 20)
    assert any("Tiny-DFlash" in line for line in nothing(verifier).passed_over)


def test_a_mistake_in_the_users_pairs_hides_no_drafter(
    verifier: Path, drafter: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "models.toml").write_text("[mine\n")
    shutil.copy(drafter, verifier.parent / "dflash-tiny.gguf")
    assert found(verifier).place == "beside the model"
    assert "models.toml" in caplog.text


def test_a_verifier_that_gives_drafters_nothing_to_read(tmp_path: Path) -> None:
    result = nothing(samples.verifier(tmp_path / "m.gguf", arch="mamba"))
    assert "m.gguf: no drafter can read verifiers of architecture 'mamba'" in result.reason


@pytest.mark.parametrize("name", ["missing.gguf", "text.gguf", "drafter.gguf"])
def test_what_is_no_verifier_has_no_drafter(tmp_path: Path, drafter: Path, name: str) -> None:
    (tmp_path / "text.gguf").write_text("no model")
    shutil.copy(drafter, tmp_path / "drafter.gguf")
    assert name in nothing(tmp_path / name).reason


# ---- Llama(..., drafter="auto") ----------------------------------------------------------------


def test_without_a_drafter_one_warning_says_how_to_get_one(
    verifier: Path, make_llama: MakeLlama
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        llm = make_llama(Llama, verifier, drafter="auto")
    (warning,) = caught
    assert warning.category is RuntimeWarning
    assert Path(warning.filename).name == "conftest.py"  # who called, not this package
    said = str(warning.message)
    assert said.startswith("no drafter was found for tiny.gguf, so decoding is plain: ")
    assert f"dflash-local train --verifier {verifier}" in said
    assert llm.drafter_path is None
    assert _answer(llm) == _answer(make_llama(Llama, verifier))


def test_a_drafter_that_cannot_be_used_is_warned_of(
    verifier: Path, drafter: Path, make_llama: MakeLlama
) -> None:
    """Named, it fails; found, decoding is plain."""
    sidecar = Path(shutil.copy(drafter, verifier.parent / "dflash-tiny.gguf"))
    _spoil(sidecar)
    with pytest.raises(BackendError, match="could not load the drafter"):
        make_llama(Llama, verifier, drafter=sidecar)
    with pytest.warns(RuntimeWarning, match="was found but cannot be used, so decoding is plain"):
        llm = make_llama(Llama, verifier, drafter="auto")
    assert _answer(llm) == _answer(make_llama(Llama, verifier))


def test_a_copy_looks_for_its_drafter_again(
    verifier: Path, drafter: Path, make_llama: MakeLlama
) -> None:
    sidecar = Path(shutil.copy(drafter, verifier.parent / "dflash-tiny.gguf"))
    state = pickle.dumps(make_llama(Llama, verifier, drafter="auto", width=7))
    with contextlib.closing(pickle.loads(state)) as copy:
        assert copy.drafter_path == sidecar
    sidecar.unlink()
    with pytest.warns(RuntimeWarning, match="no drafter was found"):
        pickle.loads(state).close()


def test_auto_leaves_a_vocabulary_alone(verifier: Path, make_llama: MakeLlama) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        llm = make_llama(Llama, verifier, drafter="auto", vocab_only=True)
    assert llm.drafter_path is None


def _answer(llm: Any) -> list[int]:
    prompt = llm.tokenize(PROMPT)
    tokens = []
    for token in llm.generate(prompt, temp=0.0):
        tokens.append(token)
        if len(tokens) == 24:
            break
    return tokens


def _spoil(drafter: Path) -> None:
    """Gives it a kind of tokenizer that libllama does not know; nobody else reads it."""
    data = drafter.read_bytes()
    assert data.count(b"gpt2") == 1
    drafter.write_bytes(data.replace(b"gpt2", b"gpt9"))


def _user_pair(verifier: Path, drafter: Path | str) -> None:
    user_file().parent.mkdir(exist_ok=True)
    user_file().write_text(f"[mine]\nverifier = '{verifier}'\ndrafter = '{drafter}'\n")

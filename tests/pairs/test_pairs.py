"""Pairs by name: the registry, what names mean, ``load``, ``get`` and ``models``; no network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import convert_samples as samples
import pytest
from conftest import MODELS
from hub_cache import HubCache
from huggingface_hub import constants
from waiting import PATIENCE

import dflash_local
from dflash_local import hf_hub
from dflash_local.cli import main
from dflash_local.errors import ModelError
from dflash_local.pairs import names
from dflash_local.pairs.reference import (
    DRAFTER_QUANTS,
    VERIFIER_QUANTS,
    Reference,
    as_reference,
    chosen,
)
from dflash_local.pairs.registry import pairs, pairs_of, user_file

PAIR = """
[tiny]
base = "some-lab/Tiny"
verifier = "some-lab/Tiny-GGUF:F32"
drafter = "z-lab/Tiny-DFlash"
thinking = "off"
drafter_licence = "mit"
"""


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubCache:
    """A cache with a pair, of which the drafter is a checkpoint; the user's list names it."""
    monkeypatch.setenv("DFLASH_LOCAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DFLASH_LOCAL_CONFIG", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    user_file().parent.mkdir()
    user_file().write_text(PAIR)
    cache = HubCache(tmp_path / "hub", monkeypatch)
    verifier = MODELS / "verifier-f32.gguf"
    other = samples.verifier(tmp_path / "elsewhere" / "projector.gguf", arch="clip")
    cache.add("some-lab/Tiny-GGUF", {"tiny-F32.gguf": verifier, "mmproj-F32.gguf": other})
    checkpoint = MODELS / "dflash-b8"
    cache.add("z-lab/Tiny-DFlash", {path.name: path for path in checkpoint.iterdir()})
    return cache


# ---- the registry ------------------------------------------------------------------------------


def test_every_pair_that_ships_names_repositories() -> None:
    shipped = {name: pair for name, pair in pairs().items() if name != "tiny"}
    assert len(shipped) >= 5
    for name, pair in shipped.items():
        assert as_reference(name) is None
        verifier = as_reference(pair.verifier)
        assert verifier is not None
        assert verifier.choice is not None
        assert as_reference(pair.drafter) is not None
        assert pair.base is not None


def test_the_users_pairs_go_before_those_of_the_package() -> None:
    text = "[qwen3-8b]\nverifier = 'mine.gguf'\ndrafter = 'd.gguf'\n"
    user_file().write_text(text)
    assert pairs()["qwen3-8b"].verifier == "mine.gguf"
    assert "qwen3-4b" in pairs()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[mine]\nverifier = 'a/b'\n", "[mine] has no drafter"),
        ("[m]\nverifier = 'a'\ndrafter = 'b'\nlicense = 'mit'\n", "[m] license: expected one of"),
        ("[m]\nverifier = 1\ndrafter = 'b'\n", "[m] verifier = 1: expected a text"),
        ("[m]\nverifier = 'a'\ndrafter = 'b'\nthinking = 'yes'\n", "[m] thinking: expected one of"),
        ("mine = 'a/b'\n", "mine = 'a/b': expected a table, [mine]"),
        ("[mine\n", "no TOML file that can be read"),
    ],
)
def test_mistakes_in_the_users_list_are_named(text: str, said: str) -> None:
    user_file().write_text(text)
    with pytest.raises(ModelError) as caught:
        pairs()
    assert said in str(caught.value)
    assert "models.toml" in str(caught.value)


def test_a_file_of_the_cache_belongs_to_its_repositorys_pair() -> None:
    file = hf_hub.snapshots()["some-lab/Tiny-GGUF"] / "tiny-F32.gguf"
    assert [pair.name for pair in pairs_of(file, pairs())] == ["tiny"]
    assert pairs_of(MODELS / "verifier-f32.gguf", pairs()) == []


# ---- what names mean ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen/Qwen3-8B-GGUF", Reference("Qwen/Qwen3-8B-GGUF")),
        ("Qwen/Qwen3-8B-GGUF:Q4_K_M", Reference("Qwen/Qwen3-8B-GGUF", "Q4_K_M")),
        ("a/b:c-00001-of-00002.gguf", Reference("a/b", "c-00001-of-00002.gguf")),
        ("models/verifier.gguf", None),
        ("qwen3-8b", None),
        ("C:\\models\\v.gguf", None),
        ("/a/b", None),
    ],
)
def test_repositories_are_told_from_paths_and_short_names(
    name: str, expected: Reference | None
) -> None:
    assert as_reference(name) == expected


FILES = [f"M-{kind}.gguf" for kind in ("BF16", "Q4_K_M", "Q4_K_S", "Q8_0", "UD-Q4_K_M")]


@pytest.mark.parametrize(
    ("choice", "quants", "expected"),
    [
        (None, VERIFIER_QUANTS, "M-Q4_K_M.gguf"),
        (None, DRAFTER_QUANTS, "M-Q8_0.gguf"),
        (None, ("IQ1_S",), "M-BF16.gguf"),
        ("q8_0", VERIFIER_QUANTS, "M-Q8_0.gguf"),
        ("UD-Q4_K_M", VERIFIER_QUANTS, "M-UD-Q4_K_M.gguf"),
        ("M-Q4_K_S.gguf", VERIFIER_QUANTS, "M-Q4_K_S.gguf"),
    ],
)
def test_one_file_of_a_repository_is_chosen(
    choice: str | None, quants: tuple[str, ...], expected: str
) -> None:
    assert chosen(FILES, Reference("a/b", choice), quants) == expected


@pytest.mark.parametrize("choice", ["Q4", "Q4_K", "Q6_K", "M"])
def test_a_type_that_is_not_there_is_refused_with_those_that_are(choice: str) -> None:
    if choice == "M":  # no type, but a part of each name
        assert chosen(FILES, Reference("a/b", choice), ()) == "M-BF16.gguf"
        return
    with pytest.raises(ModelError, match=rf"a/b has no .* {choice!r}, it has: M-BF16\.gguf, "):
        chosen(FILES, Reference("a/b", choice), ())


def test_a_verifier_is_a_path_a_repository_or_a_short_name(hub: HubCache, tmp_path: Path) -> None:
    cached = hub.folder / "models--some-lab--Tiny-GGUF" / "snapshots" / ("c" * 40)
    for name in ("tiny", "some-lab/Tiny-GGUF", "some-lab/Tiny-GGUF:f32"):
        assert names.verifier_file(name) == cached / "tiny-F32.gguf"
    own = Path(shutil.copy(MODELS / "verifier-f32.gguf", tmp_path / "tiny"))
    assert names.verifier_file("tiny") == Path("tiny")  # what is here goes first
    assert names.verifier_file(own) == own
    assert names.verifier_file("missing/v.gguf") == Path("missing/v.gguf")  # loading says it


def test_a_name_that_means_nothing_is_refused_with_a_guess() -> None:
    with pytest.raises(ModelError, match=r"'qwen3-8' is no file .*did you mean 'qwen3-8b'\?"):
        names.verifier_file("qwen3-8")
    with pytest.raises(ModelError, match="hf download other/Model"):
        names.verifier_file("other/Model")
    with pytest.raises(ModelError, match=r"some-lab/Tiny-GGUF has no GGUF file .*'Q6_K'"):
        names.verifier_file("some-lab/Tiny-GGUF:Q6_K")


def test_without_a_connection_the_cache_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert hf_hub.files("some-lab/Tiny-GGUF") == ["mmproj-F32.gguf", "tiny-F32.gguf"]
    assert names.verifier_file("tiny").name == "tiny-F32.gguf"


def test_a_drafter_may_be_a_folder_of_safetensors(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(MODELS / "dflash-b8", tmp_path / "trained"))
    made = names.drafter_file(folder, MODELS / "verifier-f32.gguf")
    assert made.parent == tmp_path / "cache" / "drafters"
    published = names.drafter_file("z-lab/Tiny-DFlash", MODELS / "verifier-f32.gguf")
    # Called after what each is from, and told from other versions by the content.
    assert published.name == made.name.replace("trained", "Tiny-DFlash")


# ---- load, get, models -------------------------------------------------------------------------


@pytest.mark.parametrize("drafter", ["auto", "tiny", "z-lab/Tiny-DFlash"])
def test_a_pair_is_loaded_by_its_name(drafter: str, tmp_path: Path) -> None:
    with dflash_local.load("tiny", drafter, width=7, n_ctx=256, n_threads=1) as llm:
        assert llm.drafter_path is not None
        assert llm.drafter_path.parent == tmp_path / "cache" / "drafters"
        llm.create_completion("Who is anna?", max_tokens=16, temperature=0.0)
        assert llm.stats.last.n_accepted > 0


def test_load_decodes_plainly_where_it_is_told_to() -> None:
    with dflash_local.load("tiny", None, n_ctx=64, n_threads=1) as llm:
        assert llm.drafter_path is None


def test_a_pairs_drafter_that_cannot_be_had_stops_no_load(hub: HubCache) -> None:
    shutil.rmtree(hub.folder / "models--z-lab--Tiny-DFlash")
    with (
        pytest.warns(RuntimeWarning, match=r"`dflash-local get tiny` fetches one"),
        dflash_local.load("tiny", n_ctx=64, n_threads=1) as llm,
    ):
        assert llm.drafter_path is None


def test_get_says_what_there_is_of_a_pair(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["get", "tiny"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["verifier"].endswith("tiny-F32.gguf (licence: see the model card)")
    assert lines["drafter"].startswith(str(tmp_path / "cache" / "drafters"))
    assert lines["drafter"].endswith("(licence: mit)")
    assert lines["thinking"].startswith("off")
    assert lines["talk"] == "dflash-local chat --verifier tiny"


@pytest.mark.parametrize(
    ("name", "kind"), [("some-lab/Tiny-GGUF", "verifier"), ("z-lab/Tiny-DFlash", "drafter")]
)
def test_get_takes_repositories(name: str, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["get", name]) == 0
    assert capsys.readouterr().out.startswith(kind)


def test_offline_the_command_takes_what_is_in_the_cache(hub: HubCache) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(hub.folder)}
    command = [sys.executable, "-m", "dflash_local", "get", "tiny"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    assert str(hub.folder) in done.stdout


def test_get_explains_what_it_cannot_have(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["get", "other/Model"]) == 1
    assert "hf download other/Model" in capsys.readouterr().err
    assert main(["get", "tinny"]) == 1
    assert "owner/repo" in capsys.readouterr().err


def test_models_lists_what_is_here_and_what_fits_what(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copy(MODELS / "dspark-b8.gguf", tmp_path / "dspark-tiny.gguf")
    (tmp_path / "damaged.gguf").write_bytes(b"GGUF")
    assert main(["models"]) == 0
    here, drafters, known = capsys.readouterr().out.split("\n\n")
    assert here.splitlines()[1].endswith("tiny-F32.gguf")
    assert [line.strip() for line in here.splitlines()[2:]] == [
        "fits: dspark-tiny.gguf",
        "fits: z-lab/Tiny-DFlash",
    ]
    assert "z-lab/Tiny-DFlash (in the Hugging Face cache, safetensors, converted" in drafters
    assert "tiny" in known
    assert "some-lab/Tiny-GGUF:F32 + z-lab/Tiny-DFlash (thinking off)" in known
    assert not (tmp_path / "cache" / "drafters").exists()

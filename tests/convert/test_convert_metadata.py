"""Keys that say what a file is, where it comes from and what it is for."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import convert_samples as samples
import pytest
from dflash_local.convert import convert

REPOSITORY = "some-lab/Tiny-4B-DFlash"
COMMIT = "0a1b2c3d" * 5
CARD = """---
license: apache-2.0
base_model: Some-Org/Tiny-4B
tags:
- dflash
- 2026
datasets: Some-Org/Answers
---
# A drafter
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint's folder, as the Hugging Face cache names it."""
    return tmp_path / "models--some-lab--Tiny-4B-DFlash" / "snapshots" / COMMIT


def keys(folder: Path, settings: dict[str, Any] | None = None) -> dict[str, Any]:
    """The keys of the converted checkpoint."""
    target = samples.verifier(folder.parents[2] / "tiny-4b-q4.gguf")
    source = samples.checkpoint(folder, settings)
    return samples.read(convert(source, target, folder.parents[2] / "d.gguf").output)[0]


def test_a_snapshot_is_called_after_its_repository_not_its_commit(folder: Path) -> None:
    found = keys(folder)
    assert found["general.name"] == "Tiny 4B DFlash"
    assert not [name for name, value in found.items() if COMMIT in str(value) and "rev" not in name]
    assert found["general.source.repo_url"].endswith(f"/{REPOSITORY}")
    assert found["dflash_local.source.repository"] == REPOSITORY
    assert found["dflash_local.source.revision"] == COMMIT


def test_a_plain_folder_claims_no_repository(tmp_path: Path) -> None:
    found = keys(tmp_path / "a" / "b" / "my-drafter")
    assert found["general.name"] == "My Drafter"
    assert not [name for name in found if "source" in name]


def test_licence_and_base_model_come_from_the_model_card(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    found = keys(folder, samples.config(verifier="Other/Model"))
    assert found["general.license"] == "apache-2.0"
    assert found["general.tags"] == ["dflash", "2026"]
    assert found["general.base_model.count"] == 1
    assert found["general.base_model.0.name"] == "Tiny 4B"
    assert found["general.base_model.0.organization"] == "Some Org"
    assert found["general.base_model.0.repo_url"].endswith("/Some-Org/Tiny-4B")
    assert found["general.dataset.0.name"] == "Answers"


@pytest.mark.parametrize(
    "changes",
    [
        {"target_model_name_or_path": "Some-Org/Tiny-4B"},
        {"speculators_metadata": {"verifier": {"name_or_path": "Some-Org/Tiny-4B"}}},
    ],
)
def test_without_a_card_the_config_names_the_base_model(
    folder: Path, changes: dict[str, Any]
) -> None:
    found = keys(folder, samples.config(**changes))
    assert found["general.base_model.0.name"] == "Tiny 4B"
    assert found["general.base_model.0.organization"] == "Some Org"


def test_a_path_is_no_base_model_then_the_verifier_itself_is(folder: Path) -> None:
    found = keys(folder, samples.config(target_model_path="/data/Tiny", _name_or_path="me/draft"))
    assert found["general.base_model.0.name"] == "Tiny Verifier"
    assert found["general.base_model.0.organization"] == "Nobody"


BOMB = "a0: &a0 [x, y]\n" + "".join(
    f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}, *a{i - 1}]\n" for i in range(1, 30)
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "card",
    [
        "license: [",
        "- a",
        "",
        "license: [[mit]]",
        "base_model: {a: [1]}",
        "base_model: [7, {name: [a]}]",
        "tags: [[a], {b: c}]",
        "license: {a: b}",
        f"{BOMB}tags: *a29",
        f"{BOMB}license_name: *a29",
        "[" * 10_000,
        "name: " + "x" * (1 << 21),
    ],
    ids=range(12),
)
def test_no_model_card_is_bad_enough_to_stop_a_conversion(folder: Path, card: str) -> None:
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(f"---\n{card}\n---\n")
    assert keys(folder)["general.name"] == "Tiny 4B DFlash"


def test_numbers_and_dates_in_a_model_card_become_text(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("---\nname: 7\nversion: 2026-11-22\nlicense: 1.5\n---\n")
    found = keys(folder)
    assert (found["general.name"], found["general.license"]) == ("7", "1.5")
    assert found["general.version"] == "2026-11-22"


def test_the_verifier_and_its_chat_template_are_told(folder: Path) -> None:
    found = keys(folder)
    assert found["dflash_local.verifier.name"] == "Tiny Verifier"
    assert found["dflash_local.verifier.architecture"] == "llama"
    assert found["dflash_local.verifier.file"] == "tiny-4b-q4.gguf"
    template = found["tokenizer.chat_template"].encode()
    assert found["dflash_local.chat_template_sha256"] == hashlib.sha256(template).hexdigest()
    assert found["dflash_local.version"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"architectures": ["Qwen3DFlashDraftModel"]}, "NeMo AutoModel"),
        ({"speculators_metadata": {"speculators_version": "0.8.0"}}, "speculators 0.8.0"),
        ({"speculators_metadata": {"speculators_version": 8}}, "speculators"),
        (
            {"dflash_config": {"training_framework": "a/b", "training_framework_version": "1.2"}},
            "a/b 1.2",
        ),
        ({"dflash_config": {"speculative_library": "c"}}, "c"),
    ],
)
def test_the_trainer_is_told_where_it_is_known(
    folder: Path, changes: dict[str, Any], expected: str | None
) -> None:
    nested = changes.pop("dflash_config", None)
    assert keys(folder, samples.config(nested, **changes)).get("dflash_local.trainer") == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"enable_thinking": True}, True),
        ({"dflash_config": {"enable_thinking": False}}, False),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"enable_thinking": "maybe"}, None),
    ],
)
def test_the_thinking_mode_is_told_where_it_is_known(
    folder: Path, changes: dict[str, Any], expected: bool | None
) -> None:
    nested = changes.pop("dflash_config", None)
    assert keys(folder, samples.config(nested, **changes)).get("dflash_local.thinking") == expected

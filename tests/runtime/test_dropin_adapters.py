"""LoRA adapters, and models from the hub: what a ``Llama`` loads besides its files."""

from __future__ import annotations

import shutil
from pathlib import Path

import carried
import gguf
import llama_cpp
import numpy as np
import pytest
from carried import PROSE, TURN_1, answer
from conftest import MakeLlama, check_drafts
from exactness import ONE_THREAD

from dflash_local import Llama

# pytest finds fixtures by the names of a module.
drafter = carried.drafter


# ---- LoRA ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random adapter of rank 4 for the queries of the tiny verifier's four layers."""
    path = tmp_path_factory.mktemp("lora") / "adapter.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string(gguf.Keys.General.TYPE, gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 4.0)
    rng = np.random.default_rng(1)
    for layer in range(4):
        for end in ("a", "b"):
            shape = (4, 64) if end == "a" else (64, 4)
            data = (0.25 * rng.standard_normal(shape)).astype(np.float32)
            writer.add_tensor(f"blk.{layer}.attn_q.weight.lora_{end}", data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_lora_adapter_changes_the_answer_as_in_the_parent(
    make_llama: MakeLlama, tiny_verifier: Path, drafter: Path | None, lora: Path
) -> None:
    options = {"lora_path": str(lora), "lora_scale": 1.0}
    base = make_llama(llama_cpp.Llama, tiny_verifier)
    parent = make_llama(llama_cpp.Llama, tiny_verifier, **options)
    llm = make_llama(Llama, tiny_verifier, drafter=drafter, **options)
    different = 0
    for prompt in (PROSE, TURN_1, "anna is"):
        expected = answer(parent, prompt)
        assert answer(llm, prompt) == expected
        different += expected != answer(base, prompt)
    assert different > 0
    if drafter is not None:
        total = llm.stats.total
        assert 0 < total.n_accepted < total.n_drafted


# ---- from_pretrained -----------------------------------------------------------------------


@pytest.fixture
def hub_cache(tmp_path: Path, tiny_verifier: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local cache as huggingface_hub lays it out, holding the tiny verifier; no network."""
    hub = pytest.importorskip("huggingface_hub")
    commit = "0" * 40
    repo = tmp_path / "models--tiny--verifier"
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    shutil.copy(tiny_verifier, snapshot / "verifier-f32.gguf")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    files = [f"tiny/verifier/{name}" for name in ("README.md", "verifier-f32.gguf")]
    monkeypatch.setattr(hub.HfFileSystem, "ls", lambda *_, **__: files)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_from_pretrained_takes_a_drafter(
    hub_cache: Path, tiny_verifier: Path, drafter: Path | None
) -> None:
    with (
        Llama.from_pretrained(
            "tiny/verifier",
            "*f32.gguf",
            cache_dir=hub_cache,
            drafter=drafter,
            width=7,
            **ONE_THREAD,
        ) as llm,
        Llama(tiny_verifier, **ONE_THREAD) as plain,
    ):
        assert isinstance(llm, Llama)
        assert answer(llm, PROSE) == answer(plain, PROSE)
        check_drafts(llm)


def test_from_pretrained_reports_a_missing_file_as_the_parent(hub_cache: Path) -> None:
    for cls in (llama_cpp.Llama, Llama):
        with pytest.raises(ValueError, match="No file found in tiny/verifier"):
            cls.from_pretrained("tiny/verifier", "*q4.gguf", cache_dir=hub_cache)

"""Training for a verifier whose features are read from its graph."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import llama_cpp
from conftest import MODELS, MakeLlama
from exactness import greedy, random_prompts
from training import ASKED, MASK

from dflash_local import Llama
from dflash_local.cli.train import main

VERIFIER = MODELS / "verifier-nolayerinp.gguf"  # gemma3
SMALL = [
    *("--max-tokens", "32", "--max-length", "96", "--at-once", "8", "--held-out", "0.25"),
    *("--layers", "1", "--block", "5", "--target-layers", "0,1,2", "--threads", "1"),
    *("--mask-token", str(MASK)),
    *("--steps", "120", "--evaluate-every", "60", "--blocks", "8", "--learning-rate", "5e-3"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short training."""
    out = tmp_path_factory.mktemp("trained")
    prompts = out / "prompts.txt"
    prompts.write_text("\n".join(ASKED[:24]) + "\n")
    files = ["--verifier", str(VERIFIER), "--prompts", str(prompts), "--out", str(out)]
    assert main([*files, *SMALL]) == 0
    return out


@pytest.mark.slow
def test_the_fit_and_the_real_loop_agree_on_what_is_accepted(trained: Path) -> None:
    report = json.loads((trained / "report.json").read_text())
    assert report["best"]["accepted"] > report["start"]["accepted"]
    fitted, real = report["by_width"]["trained"][-1]["accepted"], report["simulation"]
    assert real["n_blocks"] > 10
    assert 0.2 < real["accepted"] < 4
    assert abs(real["accepted"] - fitted) <= 3 * real["error"]


def test_the_exported_drafter_drafts_and_changes_no_answer(
    trained: Path, make_llama: MakeLlama
) -> None:
    plain = make_llama(llama_cpp.Llama, VERIFIER)
    drafted = make_llama(Llama, VERIFIER, drafter=trained / "drafter.gguf")
    for prompt in random_prompts(plain, 3, seed=2):
        assert greedy(drafted, prompt, 32) == greedy(plain, prompt, 32)
    assert drafted.stats.total.n_accepted > 0

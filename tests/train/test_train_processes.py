"""Several processes that train together, as the launchers of torch and accelerate start them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")
filelock: Any = pytest.importorskip("filelock")

from training import ASKED, VERIFIER  # noqa: E402
from waiting import PATIENCE  # noqa: E402

from dflash_local.cli.train import main  # noqa: E402
from dflash_local.train import processes  # noqa: E402

SMALL = [
    *("--max-tokens", "24", "--max-length", "96", "--at-once", "8", "--held-out", "0.2"),
    *("--layers", "1", "--block", "4", "--target-layers", "0,1,2", "--threads", "1"),
    *("--steps", "8", "--evaluate-every", "4", "--blocks", "4", "--force"),
]
TORCHRUN = ["torch.distributed.run", "--nproc-per-node=2", "--standalone"]
# With --cpu accelerate starts a single process wherever there is no MPI.
ACCELERATE = ["accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"]
ACCELERATE += ["--main_process_port=0", "--mixed_precision=no", "--dynamo_backend=no"]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    file.write_text("\n".join(ASKED) + "\n")
    return file


def options(prompts: Path, out: Path) -> list[str]:
    return ["--verifier", str(VERIFIER), "--out", str(out), "--prompts", str(prompts), *SMALL]


def train(launcher: list[str], prompts: Path, out: Path) -> None:
    command = [sys.executable, "-m", *launcher, "-m", "dflash_local", "train"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, *options(prompts, out)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env=env,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def alone(prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes."""
    out = tmp_path_factory.mktemp("alone") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "own_device", lambda: torch.device("cpu"))
        assert main(options(prompts, out)) == 0
    return out


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_two_processes_make_the_drafter_that_one_makes(
    alone: Path, prompts: Path, tmp_path: Path, launcher: list[str]
) -> None:
    if find_spec(launcher[0].split(".")[0]) is None:
        pytest.skip(f"{launcher[0]} is not installed")
    train(launcher, prompts, tmp_path)
    read = sorted(path.name for path in (tmp_path / "work" / "readings").iterdir())
    assert read == ["0-of-2", "1-of-2"]
    one, two = (json.loads((out / "report.json").read_text()) for out in (alone, tmp_path))
    assert one["texts"]["train_tokens"] == two["texts"]["train_tokens"]
    losses = [[entry["loss"] for entry in report["log"]] for report in (one, two)]
    in_bf16 = processes.has_bf16(torch.device("cpu"))
    assert losses[0] == pytest.approx(losses[1], rel=1e-3 if in_bf16 else 1e-4)
    accepted = [report["log"][-1]["accepted"] for report in (one, two)]
    assert accepted[0] == pytest.approx(accepted[1], abs=0.05)
    ours, theirs = (
        torch.load(out / "work" / "training.pt", weights_only=True) for out in (alone, tmp_path)
    )
    for name, weights in ours["model"].items():
        # Each of the 8 steps moves a weight by up to 1e-3.
        assert (weights - theirs["model"][name]).square().mean().sqrt() < 1e-5, name


def test_more_processes_than_texts_in_a_batch_are_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "2")
    verifier, out = tmp_path / "none.gguf", tmp_path / "out"
    verifier.write_bytes(b"is not read")
    command = ["--verifier", str(verifier), "--out", str(out), "--synthesize", "9"]
    assert main([*command, "--batch-size", "2"]) == 1
    assert "3 processes, and 2 texts in a batch: expected one for each" in capsys.readouterr().err
    assert not out.exists()
    assert not torch.distributed.is_initialized()


def test_two_runs_in_one_folder_are_kept_apart(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "work").mkdir()
    command = ["prompts", *options(prompts, tmp_path)]
    with filelock.FileLock(tmp_path / "work" / ".lock"):
        assert main(command) == 1
        assert "another training is at work here" in capsys.readouterr().err
        assert not (tmp_path / "work" / "prompts.jsonl").exists()
    assert main(command) == 0

"""``dflash-local train`` from prompts to GGUF, on the tiny verifier."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")

import llama_cpp  # noqa: E402
import numpy as np  # noqa: E402
from dflash_local.convert import convert  # noqa: E402
from exactness import session_on, tiny_prompts  # noqa: E402
from training import ASKED, VERIFIER  # noqa: E402
from waiting import PATIENCE  # noqa: E402

from dflash_local.cli.train import main  # noqa: E402
from dflash_local.files.gguf_header import GGUFHeader  # noqa: E402
from dflash_local.train.capture import Capturer  # noqa: E402
from dflash_local.train.checkpoint import load_weights  # noqa: E402
from dflash_local.train.model import DrafterModel, Vocabulary, drafter_config  # noqa: E402
from dflash_local.train.simulation import Simulation  # noqa: E402
from dflash_local.train.verifiers.verifier_file import VerifierFile  # noqa: E402

SMALL = [
    *("--max-tokens", "40", "--max-length", "128", "--at-once", "8", "--held-out", "0.2"),
    *("--layers", "1", "--block", "5", "--target-layers", "0,1,2"),
    *("--steps", "60", "--evaluate-every", "20", "--blocks", "8", "--learning-rate", "5e-3"),
    *("--threads", "1"),
]


def options(out: Path, *arguments: str) -> list[str]:
    return ["--verifier", str(VERIFIER), "--out", str(out), *SMALL, *arguments]


@dataclass(frozen=True)
class Done:
    """How the command ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


def train(out: Path, *arguments: str) -> Done:
    """The command in this process: a new one takes longer to import torch than to train."""
    said, told = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(told):
        try:
            status = main(options(out, *arguments))
        except SystemExit as stop:  # of argparse
            status = int(str(stop.code))
    return Done(status, said.getvalue(), told.getvalue())


def train_in_a_process(program: list[str], out: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *program, "train", *options(out, *arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    file.write_text("\n".join(ASKED) + "\n")
    return file


@pytest.fixture(scope="module")
def trained(prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    process = train_in_a_process(["-m", "dflash_local"], out, "--prompts", str(prompts))
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, stderr
    assert stdout.strip() == str(out / "drafter.gguf")
    return out


@pytest.mark.slow
def test_it_ends_with_a_drafter_that_beats_its_own_start(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()} - {"training.png"}
    files = {"model.safetensors", "config.json", "drafter.gguf", "report.json", "report.md"}
    assert names == {*files, "work"}
    report = json.loads((trained / "report.json").read_text())
    assert report["best"]["accepted"] > report["start"]["accepted"]
    assert report["simulation"]["n_blocks"] > 10
    assert report["texts"]["held_out"] > 0
    lengths = {name: [one["accepted"] for one in all_] for name, all_ in report["by_width"].items()}
    assert [one["width"] for one in report["by_width"]["trained"]] == [1, 2, 3, 4]
    assert lengths["trained"][-1] > lengths["untrained"][-1]
    real = report["simulation"]
    assert abs(real["accepted"] - lengths["trained"][-1]) <= 3 * real["error"]
    assert report["verifier"]["chat_template"].startswith("sha256 ")
    for text in ((trained / "report.json").read_text(), (trained / "report.md").read_text()):
        assert str(trained.parent) not in text, "where things lie is nobody's business"


def test_the_gguf_drafts_what_torch_would(trained: Path, make_llama: Any, tmp_path: Path) -> None:
    """Logits of libllama on the exported file, and of torch on the weights that were trained."""
    fields = json.loads((trained / "config.json").read_text())
    verifier = VerifierFile(VERIFIER)
    model = DrafterModel(drafter_config(fields)).eval()
    load_weights(model, trained)
    convert(trained, VERIFIER, tmp_path / "drafter.gguf", outtype="f32")
    embedding = torch.from_numpy(verifier.embedding)
    vocabulary = Vocabulary(embedding, embedding, fields["dflash_config"]["mask_token_id"])
    llm = make_llama(llama_cpp.Llama, VERIFIER, n_threads=1, n_threads_batch=1)
    layers = [layer + 1 for layer in fields["dflash_config"]["target_layer_ids"]]
    with (
        session_on(llm, tmp_path / "drafter.gguf") as session,
        Capturer(VERIFIER, layers, n_ctx=256, n_threads=1) as capturer,
    ):
        for prompt in tiny_prompts(llm, 4, seed=3):
            session.sync(prompt)
            session.step()
            drafts = session.propose().tokens
            ours = np.array([session.draft_logits(row) for row in range(len(drafts))])
            text = session.tokens
            features = torch.from_numpy(capturer.read(text[:-1], 0).features)[None]
            anchor = torch.tensor([[len(text) - 1]])
            blocks = vocabulary.blocks(torch.tensor([[text[-1]]]), model.block_size)
            with torch.no_grad():
                theirs = vocabulary.logits(model(features, anchor, blocks))[0, 0, 1:].numpy()
            # The session's K/V cache is F32 here, the capturer's F16 as it will run.
            assert np.abs(ours - theirs).max() < 0.02 * np.abs(theirs).max()
            session.discard()


#: The command, killed at a call of a method.
KILLED = """
import itertools, os, signal, sys
from importlib import import_module

module, owner, name, wanted = sys.argv[1:5]
owner = getattr(import_module(f"dflash_local.train.{module}"), owner)
method, calls = getattr(owner, name), itertools.count(1)

def killing(*arguments, **options):
    if next(calls) == int(wanted):
        os.kill(os.getpid(), signal.SIGKILL)
    return method(*arguments, **options)

setattr(owner, name, killing)
from dflash_local.cli.train import main
sys.exit(main(sys.argv[6:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment", ["answerer Answerer answer 1", "loop Fit _look 3"], ids=["answers", "40 steps"]
)
def test_killed_and_started_again_it_ends_with_the_same_weights(
    trained: Path, prompts: Path, tmp_path: Path, moment: str
) -> None:
    """Killed when it writes answers, or when it has trained 40 steps."""
    process = train_in_a_process(
        ["-c", KILLED, *moment.split()], tmp_path, "--prompts", str(prompts)
    )
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL, stderr
    done = train(tmp_path, "--prompts", str(prompts))
    assert done.returncode == 0, done.stderr
    name = "model.safetensors"
    assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()


def test_other_settings_in_the_same_folder_are_refused(trained: Path, prompts: Path) -> None:
    done = train(trained, "--prompts", str(prompts), "--blocks", "9")
    assert done.returncode == 1
    assert "fit n_blocks: 8 then, 9 now" in done.stderr


@pytest.mark.slow
def test_steps_can_be_taken_one_by_one(trained: Path, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / trained.name  # the GGUF bears it
    for step in ("prompts", "generate", "fit", "simulate", "export"):
        done = train(out, step, "--prompts", str(prompts))
        assert done.returncode == 0, done.stderr
        assert (out / "drafter.gguf").exists() == (step == "export")
    name = "drafter.gguf"
    assert (out / name).read_bytes() == (trained / name).read_bytes()
    assert GGUFHeader(out / name).get("general.name").lower() == trained.name


def test_the_verifier_may_ask_itself(tmp_path: Path) -> None:
    done = train(tmp_path, "--synthesize", "24", "--steps", "8", "--evaluate-every", "4", "--force")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["texts"]["answers"]["synthesize"] == 24


def test_a_drafter_that_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    tokens = tmp_path / "texts.jsonl"
    lines = ({"tokens": [5 + i, 6, 7, 8], "start": 2} for i in range(30))
    tokens.write_text("".join(json.dumps(line) + "\n" for line in lines))
    wrong = ("--layers", "9", "--block", "1", "--target-layers", "0,3", "--mask-token", "384")
    done = train(tmp_path / "a", "fit", "--tokens", str(tokens), *wrong)
    assert done.returncode == 1
    for problem in (
        "block: found 1, expected 2 to 256",
        "layers: found 9, expected 1 to 4",
        "target layers: found [0, 3], expected different ones from 0 to 2",
        "mask token: found 384, expected below 384",
    ):
        assert problem in done.stderr
    foreign = json.dumps({"tokens": [5, 6, 999, 7], "start": 2})
    tokens.write_text(f"{foreign}\n{tokens.read_text()}")
    done = train(tmp_path / "b", "fit", "--tokens", str(tokens))
    assert done.returncode == 1
    assert "token 999 in the texts, the verifier has 384" in done.stderr


@pytest.mark.slow
def test_training_goes_on_from_a_drafter_of_zlabs_layout(
    trained: Path, prompts: Path, tmp_path: Path
) -> None:
    done = train(tmp_path / "on", "--prompts", str(prompts), "--init", str(trained))
    assert done.returncode == 0, done.stderr
    before, after = (
        json.loads((out / "report.json").read_text()) for out in (trained, tmp_path / "on")
    )
    # The exported weights are rounded to BF16.
    assert after["start"]["accepted"] == pytest.approx(before["best"]["accepted"], abs=0.05)
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"architectures": ["DFlash2DraftModel"]}')
    done = train(tmp_path / "no", "--prompts", str(prompts), "--init", str(other))
    assert done.returncode == 1
    assert "goes on from z-lab's DFlashDraftModel" in done.stderr


def test_a_drafter_that_drafts_otherwise_than_promised_is_told_apart() -> None:
    real = Simulation(accepted=0.5, error=0.02, reached=[], n_blocks=400)
    assert not real.is_far_from(0.55)
    assert real.is_far_from(0.9)
    assert not Simulation(0.5, 0.2, [], 10).is_far_from(0.9), "too few blocks to tell"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "nothing to train on: name --prompts, --tokens, or --synthesize N"),
        (("--prompts", "nowhere.jsonl"), "nowhere.jsonl is no file"),
        (("--synthesize", "2"), "conversations to train on"),
        (("--init", "nowhere", "--synthesize", "2"), "has no config.json"),
        (("--synthesize", "2", "--decay", "0"), "--decay: expected a number above 0"),
        (("--synthesize", "2", "--soft", "2"), "--soft: expected a share from 0 to 1"),
    ],
)
def test_what_is_missing_is_told(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    done = train(tmp_path / "out", *arguments)
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert "Traceback" not in done.stderr

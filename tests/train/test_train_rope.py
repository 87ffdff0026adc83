"""A drafter to go on with keeps its rotary embedding: as transformers has it, and as libllama."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")

import llama_cpp  # noqa: E402
import numpy as np  # noqa: E402
import training  # noqa: E402
from dflash_local.convert import convert  # noqa: E402
from exactness import session_on, tiny_prompts  # noqa: E402
from templates import VERIFIER, questions, run, write_rows  # noqa: E402
from training import MASK  # noqa: E402

from dflash_local import DFlashError  # noqa: E402
from dflash_local.cli import train  # noqa: E402
from dflash_local.train.capture import Capturer  # noqa: E402
from dflash_local.train.checkpoint import save_checkpoint  # noqa: E402
from dflash_local.train.model import DrafterModel, Rotation, Vocabulary, drafter_config  # noqa: E402
from dflash_local.train.verifiers.verifier_file import VerifierFile  # noqa: E402

torch.set_num_threads(1)
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"type": "linear", "factor": 4.0}
SMALL = ("--max-tokens", "8", "--max-length", "64", "--threads", "1", "--steps", "1")


def fields(**rope: Any) -> dict[str, Any]:
    """config.json of a tiny drafter with another rotary embedding."""
    plain = training.fields(VerifierFile(VERIFIER).sizes)
    del plain["rope_theta"]
    return plain | rope


def rates(**rope: Any) -> tuple[list[float], float]:
    rotation = Rotation(drafter_config(fields(**rope)))
    return rotation.rates.tolist(), rotation.magnitude


@pytest.mark.parametrize("scaling", [YARN, LLAMA3, LINEAR], ids=["yarn", "llama3", "linear"])
def test_torch_turns_heads_as_the_converted_file_does(
    scaling: dict[str, Any], make_llama: Any, tmp_path: Path
) -> None:
    """Logits of libllama and of torch, of a drafter with random weights; those of plain rope are
    far from both."""
    own = fields(rope_theta=1e4, rope_scaling=scaling)
    torch.manual_seed(3)
    model = DrafterModel(drafter_config(own)).eval()
    folder = save_checkpoint(tmp_path / "drafter", model.state_dict(), own)
    convert(folder, VERIFIER, tmp_path / "drafter.gguf", outtype="f32")
    plain = DrafterModel(drafter_config(fields(rope_theta=1e4))).eval()
    weights = {name: value.bfloat16().float() for name, value in model.state_dict().items()}
    model.load_state_dict(weights)
    plain.load_state_dict(weights)
    embedding = torch.from_numpy(VerifierFile(VERIFIER).embedding)
    vocabulary = Vocabulary(embedding, embedding, MASK)
    llm = make_llama(llama_cpp.Llama, VERIFIER, n_threads=1, n_threads_batch=1)
    layers = [layer + 1 for layer in training.TARGET_LAYER_IDS]
    with (
        session_on(llm, tmp_path / "drafter.gguf") as session,
        Capturer(VERIFIER, layers, n_ctx=256, n_threads=1) as capturer,
    ):
        prompt = max(tiny_prompts(llm, 8, seed=3), key=len)
        session.sync(prompt)
        session.step()
        drafts = session.propose().tokens
        found = np.array([session.draft_logits(row) for row in range(len(drafts))])
        text = session.tokens
        features = torch.from_numpy(capturer.read(text[:-1], 0).features)[None]
        session.discard()
    blocks = vocabulary.blocks(torch.tensor([[text[-1]]]), model.block_size)
    anchor = torch.tensor([[len(text) - 1]])
    with torch.no_grad():
        ours, others = (
            vocabulary.logits(one(features, anchor, blocks))[0, 0, 1:].numpy()
            for one in (model, plain)
        )
    assert np.abs(ours - found).max() < 0.02 * np.abs(found).max()
    assert np.abs(others - found).max() > 0.05 * np.abs(found).max()


def test_both_spellings_mean_the_same() -> None:
    older = rates(rope_theta=1e6, rope_scaling=YARN)
    assert older[1] > 1
    for newer in (
        {"rope_parameters": {**YARN, "rope_theta": 1e6}},
        {"rope_parameters": YARN, "rope_theta": 1e6},
        {"rope_parameters": {**YARN, "rope_theta": 1e6}, "rope_scaling": YARN},
        {"rope_parameters": {"full_attention": {**YARN, "rope_theta": 1e6}}},
        {"rope_scaling": {**YARN, "type": "yarn", "rope_theta": 1e6}, "rope_parameters": None},
    ):
        assert rates(**newer) == older
    plain = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    assert rates(**plain) == rates(rope_theta=1e6) != rates()


def test_a_config_is_not_changed_by_reading_it() -> None:
    own = fields(rope_theta=1e6, rope_scaling=dict(YARN))
    before = json.dumps(own)
    Rotation(drafter_config(own))
    assert json.dumps(own) == before


@pytest.mark.parametrize(
    ("rope", "words"),
    [
        ({"rope_parameters": {"rope_type": "default"}, "rope_scaling": YARN}, "contradict"),
        ({"rope_parameters": {**YARN, "factor": 4.0}, "rope_scaling": YARN}, "contradict"),
        ({"rope_parameters": {"rope_theta": 1e6}, "rope_theta": 5e5}, "contradict"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "found 'dynamic'"),
        ({"partial_rotary_factor": 0.5}, "found 0.5, expected 1"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 8.0}}, "rope of the type yarn needs it"),
    ],
)
def test_what_training_cannot_turn_is_refused_before_it_begins(
    rope: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(DFlashError, match=words):
        rates(**rope)
    init = tmp_path / "init"
    init.mkdir()
    (init / "config.json").write_text(json.dumps(fields(**rope)))
    rows = write_rows(tmp_path / "r.jsonl", questions(12))
    given = ("--verifier", VERIFIER, "--out", tmp_path / "out", "--prompts", rows)
    done = run(train.main, *given, "--init", init, *SMALL)
    assert done.status == 1
    assert words in done.err

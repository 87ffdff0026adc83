"""The numpy forward pass against torch: same checkpoint, same features, same logits."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from dflash_local.convert.checking.forward import NumpyDrafter
from dflash_local.convert.checking.forward_source import open_drafter
from dflash_local.convert.checking.forward_weights import EMBEDDING, HEAD
from dflash_local.convert.reading.source import open_source
from dflash_local.convert.verifiers.verifier import read_verifier
from layout_configs import FULL, LLAMA3, SLIDING, YARN
from layout_files import Checkpoint, write_checkpoint
from layout_samples import SAMPLES, _a
from random_verifier import write_runnable
from republished import publications

torch: Any = pytest.importorskip("torch")
zlab_model: Any = pytest.importorskip("dflash.model", reason="z-lab's reference is not installed")

MODELS = Path(__file__).parents[1] / "models"
sys.path.insert(0, str(MODELS))
tiny_gguf: Any = import_module("tiny_gguf")
torch.set_num_threads(1)

Floats = npt.NDArray[np.float32]

#: Of the largest logit; nothing but the order of sums differs.
TOLERANCE = 1e-5
N_FEATURES, ANCHOR = 300, 11


def _open(folder: Path, checkpoint: Checkpoint, verifier: Path) -> NumpyDrafter:
    source = open_source(write_checkpoint(folder, checkpoint))
    return open_drafter(source, read_verifier(verifier))[0]


def _features(drafter: NumpyDrafter, n: int) -> Floats:
    width = len(drafter.config.target_layer_ids) * drafter.config.n_embd
    return np.random.default_rng(0).normal(size=(n, width)).astype(np.float32)


def _error(ours: Floats, theirs: Floats) -> float:
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


# ---- z-lab's model -------------------------------------------------------------------------


class Reference:
    """z-lab's model over the embedding and the head that a drafter reads."""

    def __init__(self, folder: Path, drafter: NumpyDrafter) -> None:
        cls = "DFlash2DraftModel" if drafter.config.selector else "DFlashDraftModel"
        self.model = getattr(zlab_model, cls).from_pretrained(folder, dtype=torch.float32).eval()
        self.embedding = torch.from_numpy(drafter.weights[EMBEDDING].read())
        head = torch.from_numpy(drafter.weights[HEAD].read())
        self.head = torch.nn.Linear(head.shape[1], head.shape[0], bias=False)
        self.head.weight = torch.nn.Parameter(head)

    def hidden(self, features: Floats, width: int) -> Any:
        """Last hidden states [1, width, n_embd] of the masks behind the anchor."""
        block = torch.tensor([[ANCHOR] + [self.model.mask_token_id] * width])
        scale = zlab_model._draft_value(self.model.config, "input_embedding_scale", 1.0)
        with torch.inference_mode():
            rows = self.model(
                target_hidden=torch.from_numpy(features)[None],
                noise_embedding=torch.nn.functional.embedding(block, self.embedding) * scale,
                position_ids=torch.arange(len(features) + 1 + width)[None],
            )
        return rows[:, 1:]

    def logits(self, features: Floats, width: int) -> Floats:
        with torch.inference_mode():
            out: Floats = self.head(self.hidden(features, width))[0].numpy()
        return out


PARTLY_SLIDING = {"use_sliding_window": True, "sliding_window": 20, "layer_types": [SLIDING, FULL]}
CHECKPOINTS = {
    **{name: SAMPLES[name] for name in SAMPLES if name in ("a-zlab", "a-gelu", "a-own-vocabulary")},
    "causal": _a(is_causal=True),
    "sliding": _a(**PARTLY_SLIDING, is_causal=False),
    "sliding-causal": _a(**PARTLY_SLIDING, is_causal=True),
    "sliding-unsaid": _a(**PARTLY_SLIDING),
    "window-within-a-block": _a(**{**PARTLY_SLIDING, "sliding_window": 3}, is_causal=False),
    "linear": _a(rope_scaling={"rope_type": "linear", "factor": 4.0}),
    "llama3": _a(rope_scaling=LLAMA3),
    "yarn": _a(
        rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    ),
    "yarn-set": _a(rope_scaling={**YARN, "beta_slow": 2.0, "attention_factor": 1.3}),
    "scaled-embedding": _a(input_embedding_scale=8.0),
}


@pytest.fixture(scope="module")
def verifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_runnable(tmp_path_factory.mktemp("verifier") / "v.gguf")


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_logits_equal_those_of_z_labs_model(name: str, verifier: Path, tmp_path: Path) -> None:
    drafter = _open(tmp_path / "c", CHECKPOINTS[name], verifier)
    features = _features(drafter, N_FEATURES)
    ours = drafter.predict(features, ANCHOR, [0] * 7)
    theirs = Reference(tmp_path / "c", drafter).logits(features, 7)
    assert ours.confidence is None
    assert _error(ours.logits, theirs) < TOLERANCE


@pytest.mark.parametrize("name", ["b-dflash2", "b-scales"])
def test_drafts_of_dflash2_are_those_of_z_labs_model(
    name: str, verifier: Path, tmp_path: Path
) -> None:
    drafter = _open(tmp_path / "c", SAMPLES[name], verifier)
    features = _features(drafter, 40)
    reference = Reference(tmp_path / "c", drafter)
    hidden = reference.hidden(features, 7)
    anchor = torch.tensor([ANCHOR])
    with torch.inference_mode():
        path, candidates, _ = reference.model.propose(hidden, anchor, reference.head, 0.0)
        logits = reference.model.compute_logits(hidden, reference.head)[0].numpy()
    drafts = path[0].tolist()
    scores = drafter.predict(features, ANCHOR, drafts).logits
    assert scores.argmax(-1).tolist() == drafts
    for row, allowed in zip(scores, candidates[0], strict=True):
        assert sorted(np.flatnonzero(np.isfinite(row))) == sorted(allowed.tolist())
    assert not np.allclose(scores[0], logits[0])  # the token before has its say


def test_scales_of_the_logits_are_z_labs(verifier: Path, tmp_path: Path) -> None:
    """In llama.cpp's graph DFlash2's selector alone sees them: so here too."""
    drafter = _open(tmp_path / "c", SAMPLES["b-scales"], verifier)
    for name in ("selector_predecessor.weight", "selector_successor.weight"):
        drafter.weights[name] = _zeros(drafter, name)  # type: ignore[index]
    features = _features(drafter, 40)
    reference = Reference(tmp_path / "c", drafter)
    with torch.inference_mode():
        hidden = reference.hidden(features, 7)
        theirs = reference.model.compute_logits(hidden, reference.head)[0].numpy()
    ours = drafter.predict(features, ANCHOR, [0] * 7).logits
    kept = np.isfinite(ours)
    assert _error(ours[kept], theirs[kept]) < TOLERANCE


def _zeros(drafter: NumpyDrafter, name: str) -> Any:
    from dflash_local.convert.checking.forward_weights import held

    return held(np.zeros(drafter.weights[name].shape, np.float32))


# ---- the tiny trained drafters, in every layout ----------------------------------------------

PUBLISHED = {name: item for name, item in publications().items() if item.original is not None}


def _torch_rows(name: str, features: Floats, drafter: NumpyDrafter) -> tuple[list[int], Any, Any]:
    """Drafts, logits with what the head adds to them, and the confidence's logits."""
    model, only = tiny_gguf.read_drafter(MODELS / f"{PUBLISHED[name].original}.gguf")
    embedding, head = (torch.from_numpy(drafter.weights[n].read()) for n in (EMBEDDING, HEAD))
    config = model.config
    block = torch.tensor([[[ANCHOR] + [config.mask_id] * (config.block_size - 1)]])
    with torch.inference_mode():
        rows = torch.nn.functional.embedding(block, embedding)
        anchors = torch.tensor([[len(features)]])
        hidden = model(torch.from_numpy(features)[None], anchors, rows)
        logits = hidden @ head.T
        if only is not None:
            everything = torch.full((*logits.shape[:-1], len(embedding)), -torch.inf)
            logits = everything.index_copy(-1, only, logits)
        drafts = model.propose(hidden, logits, block[..., 0])
        before = torch.cat([block[..., :1], drafts[..., :-1]], -1)
        hidden = hidden[..., config.first_row :, :]
        scores = logits[..., config.first_row :, :] + model.pairwise(hidden, before)
        sure = model.confidence(hidden, before)[0, 0] if config.kind == "dspark" else None
    return drafts[0, 0].tolist(), scores[0, 0].numpy(), sure


@pytest.mark.parametrize("name", [n for n, item in PUBLISHED.items() if not item.without])
def test_predictions_of_every_layout_are_torchs(
    name: str, tiny_verifier: Path, tmp_path: Path
) -> None:
    drafter = _open(tmp_path / "c", PUBLISHED[name].checkpoint, tiny_verifier)
    features = _features(drafter, 40)
    drafts, theirs, sure = _torch_rows(name, features, drafter)
    ours = drafter.predict(features, ANCHOR, drafts)
    if theirs.shape != ours.logits.shape:  # a reduced head
        theirs = theirs[:, np.isfinite(theirs[0])]
    kept = np.isfinite(ours.logits)
    assert _error(ours.logits[kept], theirs[kept]) < TOLERANCE
    if ours.confidence is not None:
        np.testing.assert_allclose(ours.confidence, sure.sigmoid().numpy(), atol=1e-5)

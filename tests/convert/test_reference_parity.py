"""Our drafts against z-lab's own model in torch (`dflash` on PyPI): same weights, same features,
same logits. The features come from another verifier than the session's: a torch copy of the tiny
one, a stock context of the real one. Which layers they are of is z-lab's code to say."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest
from dflash_local.convert import convert
from exactness import ONE_THREAD, session_on, tiny_prompts, tokenize
from layer_inputs import LayerInputs

from dflash_local.files.drafter_file import read_drafter
from dflash_local.train.draft_vocab import proposed_tokens

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")
zlab: Any = pytest.importorskip("dflash.model", reason="z-lab's reference is not installed")

MODELS = Path(__file__).parents[1] / "models"
CHECKPOINT = MODELS / "dflash-b8"
REAL_CHECKPOINT = Path(__file__).parents[2] / "drafters" / "smollm2-135m-dflash"
sys.path.insert(0, str(MODELS))
tiny_gguf: Any = import_module("tiny_gguf")
torch.set_num_threads(1)

MakeLlama = Callable[..., Any]
Floats = npt.NDArray[np.float32]


# ---- the reference -------------------------------------------------------------------------


class Reference:
    """z-lab's drafter over the embedding of its verifier, which is the head too, in F32."""

    def __init__(self, model: Any, embedding: Any) -> None:
        self.model = model.eval()
        self.embedding = embedding
        n_vocab, n_embd = embedding.shape
        self.head = torch.nn.Linear(n_embd, n_vocab, bias=False)
        self.head.weight = torch.nn.Parameter(embedding)

    @classmethod
    def load(cls, checkpoint: Path, embedding: Any) -> Reference:
        model = zlab.DFlashDraftModel.from_pretrained(checkpoint, dtype=torch.float32)
        return cls(model, embedding)

    def hidden(self, states: Sequence[Any], anchor: int, width: int) -> Any:
        """Last hidden states [1, width, n_embd] of the drafts to follow `anchor`.

        `states` are the verifier's hidden states [1, n, n_embd] of the text before it.
        """
        features = zlab.extract_context_feature(states, self.model.target_layer_ids)
        block = torch.tensor([[anchor] + [self.model.mask_token_id] * width])
        with torch.inference_mode():
            rows = self.model(
                target_hidden=features,
                noise_embedding=torch.nn.functional.embedding(block, self.embedding),
                position_ids=torch.arange(features.shape[1] + block.shape[1])[None],
            )
        return rows[:, 1:]

    def logits(self, states: Sequence[Any], anchor: int, width: int) -> Floats:
        with torch.inference_mode():
            rows = self.model.compute_logits(self.hidden(states, anchor, width), self.head)
        out: Floats = rows[0].numpy()
        return out


@dataclass
class Agreement:
    """How two ways to the same logits agree."""

    n_rows: int = 0
    n_same: int = 0
    error: float = 0.0  # the largest difference, relative to the largest logit of the block

    def add(self, ours: Floats, theirs: Floats) -> None:
        assert ours.shape == theirs.shape
        self.n_rows += len(ours)
        self.n_same += int((ours.argmax(1) == theirs.argmax(1)).sum())
        self.error = max(self.error, float(np.abs(ours - theirs).max() / np.abs(theirs).max()))

    @property
    def same(self) -> float:
        return self.n_same / self.n_rows


# ---- what the session drafts ---------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A draft with the text before it, whose last token is the anchor."""

    text: list[int]
    drafts: list[int]
    logits: Floats  # [len(drafts), n_vocab], or [0, 0] with DFlash2


def _blocks(
    llm: llama_cpp.Llama, drafter: Path, prompts: Iterable[list[int]], n_steps: int
) -> Iterator[Block]:
    """The drafts of greedy answers, some of which were accepted and some rejected."""
    has_logits = read_drafter(drafter).kind != "dflash2"
    with session_on(llm, drafter) as session:
        for prompt in prompts:
            session.sync(prompt)
            session.step()
            for _ in range(n_steps):
                drafts = session.propose().tokens
                n = len(drafts) if has_logits else 0
                rows = [session.draft_logits(row) for row in range(n)]
                yield Block(session.tokens, drafts, np.array(rows, np.float32))
                session.discard()
                session.step()
        stats = session.total_stats
        assert 0 < stats.n_accepted < stats.n_drafted


# ---- the tiny pair -------------------------------------------------------------------------


@dataclass(frozen=True)
class TorchVerifier:
    """The tiny verifier in torch."""

    model: Any

    def states(self, text: list[int]) -> list[Any]:
        """Hidden states as Hugging Face counts them: the embeddings, then every layer's output."""
        with torch.inference_mode():
            _, inputs = self.model(torch.tensor([text]))
        return [*inputs]


@pytest.fixture(scope="module")
def tiny(tiny_verifier: Path) -> TorchVerifier:
    return TorchVerifier(tiny_gguf.read_verifier(tiny_verifier))


@pytest.fixture
def stock(make_llama: MakeLlama, tiny_verifier: Path) -> llama_cpp.Llama:
    llm: llama_cpp.Llama = make_llama(llama_cpp.Llama, tiny_verifier, **ONE_THREAD)
    return llm


def _tiny_agreement(
    stock: llama_cpp.Llama, tiny: TorchVerifier, reference: Reference, drafter: Path
) -> Agreement:
    agreement = Agreement()
    for block in _blocks(stock, drafter, tiny_prompts(stock, 10, seed=7), n_steps=6):
        states = tiny.states(block.text[:-1])
        theirs = reference.logits(states, block.text[-1], len(block.drafts))
        agreement.add(block.logits, theirs)
        assert block.drafts == block.logits.argmax(1).tolist()
    return agreement


@pytest.mark.slow
@pytest.mark.parametrize(("outtype", "tolerance"), [("f32", 3e-5), ("f16", 5e-3), ("bf16", 0.03)])
def test_logits_of_the_tiny_drafter_equal_those_of_the_reference(
    outtype: str,
    tolerance: float,
    stock: llama_cpp.Llama,
    tiny: TorchVerifier,
    tiny_verifier: Path,
    tmp_path: Path,
) -> None:
    """The checkpoint through our converter; in F32 nothing but the order of sums differs."""
    drafter = tmp_path / "drafter.gguf"
    convert(CHECKPOINT, tiny_verifier, drafter, outtype=outtype)
    reference = Reference.load(CHECKPOINT, tiny.model.embed_tokens.weight)
    agreement = _tiny_agreement(stock, tiny, reference, drafter)
    assert agreement.error < tolerance
    assert agreement.same == 1.0 if outtype == "f32" else agreement.same > 0.97


@pytest.mark.parametrize("shift", [-1, 1])
def test_features_of_the_next_layer_disagree(
    shift: int, stock: llama_cpp.Llama, tiny: TorchVerifier
) -> None:
    """A test of the test: an off-by-one in the target layers is far outside the tolerances."""
    reference = Reference.load(CHECKPOINT, tiny.model.embed_tokens.weight)
    ids = [layer + shift for layer in reference.model.target_layer_ids]
    reference.model.target_layer_ids = [min(layer, 2) for layer in ids]
    agreement = _tiny_agreement(stock, tiny, reference, MODELS / "dflash-b8.gguf")
    assert agreement.error > 0.2
    assert agreement.same < 0.9


def test_drafts_of_the_tiny_dflash2_equal_those_of_the_reference(
    stock: llama_cpp.Llama, tiny: TorchVerifier
) -> None:
    drafter = MODELS / "dflash2-b8.gguf"
    reference = _dflash2(drafter, tiny)
    same = []
    for block in _blocks(stock, drafter, tiny_prompts(stock, 10, seed=7), n_steps=6):
        states = tiny.states(block.text[:-1])
        hidden = reference.hidden(states, block.text[-1], len(block.drafts))
        anchor = torch.tensor(block.text[-1:])
        with torch.inference_mode():
            drafts, _, _ = reference.model.propose(hidden, anchor, reference.head, 0.0)
        same += [a == b for a, b in zip(block.drafts, drafts[0].tolist(), strict=True)]
    assert np.mean(same) > 0.99


def _dflash2(drafter: Path, tiny: TorchVerifier) -> Reference:
    """z-lab's DFlash2 model with the weights of a GGUF file."""
    ours, _ = tiny_gguf.read_drafter(drafter)
    fields = json.loads((CHECKPOINT / "config.json").read_text())
    fields["dflash_config"] |= {
        "block_size": ours.config.block_size,
        "target_layer_ids": [layer - 1 for layer in ours.config.target_layers],
        "conv_kernel_size": ours.config.conv_kernel,
        "conv_group_size": ours.config.conv_group,
        "selector_rank": ours.config.rank,
        "selector_top_k": ours.config.top_k,
    }
    model = zlab.DFlash2DraftModel(zlab.Qwen3Config(**fields))
    model.load_state_dict(ours.state_dict())
    return Reference(model, tiny.model.embed_tokens.weight)


# ---- the real pair -------------------------------------------------------------------------


def _real_reference(verifier: Path) -> Reference:
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(verifier).tensors}
    stored = tensors["token_embd.weight"]
    embedding = gguf.quants.dequantize(stored.data, stored.tensor_type)
    return Reference.load(REAL_CHECKPOINT, torch.from_numpy(embedding))


TEXTS = (
    "<|im_start|>user\nExplain what photosynthesis is.<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nWrite three tips for better sleep.<|im_end|>\n<|im_start|>assistant\n",
)


@pytest.mark.slow
def test_logits_of_the_real_drafter_equal_those_of_the_reference(
    make_llama: MakeLlama, smollm2_f32: Path, smollm2_drafter_f32: Path
) -> None:
    llm = make_llama(llama_cpp.Llama, smollm2_f32, **ONE_THREAD)
    inputs = LayerInputs(make_llama(llama_cpp.Llama, smollm2_f32, **ONE_THREAD))
    prompts = [tokenize(llm, text) for text in TEXTS]
    right, wrong = Agreement(), Agreement()
    reference = _real_reference(smollm2_f32)
    ids = reference.model.target_layer_ids
    proposed = proposed_tokens(smollm2_drafter_f32)
    assert proposed is not None
    for block in _blocks(llm, smollm2_drafter_f32, prompts, n_steps=4):
        states = inputs.states(block.text[:-1])
        for agreement, shift in ((right, 0), (wrong, 1)):
            reference.model.target_layer_ids = [layer + shift for layer in ids]
            theirs = reference.logits(states, block.text[-1], len(block.drafts))
            agreement.add(block.logits[:, proposed], theirs[:, proposed])
    assert right.error < 3e-5
    assert right.same == 1.0
    assert wrong.error > 0.05
    assert wrong.same < 0.9

"""Converted drafters against torch, number by number: the logits of drafted blocks.

Two references: for every layout the tiny drafter in torch whose weights were published again, and
for layout A's settings z-lab's own model (`dflash` on PyPI), which reads the same checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest
from dflash_local.convert import convert
from exactness import ONE_THREAD, tiny_prompts
from layout_configs import SLIDING, zlab
from layout_files import Checkpoint, values, write_checkpoint
from republished import FLAT, TOP, publications
from tiny_weights import N_VOCAB, f32_edition, read_weights

torch: Any = pytest.importorskip("torch")
pytest.importorskip("dflash.model", reason="z-lab's reference is not installed")
from test_reference_parity import (  # noqa: E402
    Agreement,
    Block,
    Reference,
    TorchVerifier,
    _blocks,
    tiny_gguf,
)

MakeLlama = Callable[..., Any]
PUBLISHED = {name: item for name, item in publications().items() if item.original is not None}
#: Of the largest logit, in F32: nothing but the order of sums differs.
TOLERANCE = 3e-5
#: ggml looks GELU up in a table of F16.
GELU_TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def tiny(tiny_verifier: Path) -> TorchVerifier:
    return TorchVerifier(tiny_gguf.read_verifier(tiny_verifier))


@pytest.fixture
def stock(make_llama: MakeLlama, tiny_verifier: Path) -> llama_cpp.Llama:
    llm: llama_cpp.Llama = make_llama(llama_cpp.Llama, tiny_verifier, **ONE_THREAD)
    return llm


def _drafted(stock: llama_cpp.Llama, drafter: Path) -> Iterator[Block]:
    return _blocks(stock, drafter, tiny_prompts(stock, 2, seed=7), n_steps=4)


def _other_head(tiny: TorchVerifier) -> Any:
    embedding = tiny.model.embed_tokens.weight.numpy()
    return embedding + values("lm_head.weight", embedding.shape) / 16


# ---- every layout --------------------------------------------------------------------------


class TinyReference:
    """A tiny drafter in torch, with the weights of a GGUF file."""

    def __init__(self, file: Path, tiny: TorchVerifier, *, markov: bool) -> None:
        self.tiny = tiny
        self.model, self.only = tiny_gguf.read_drafter(file)
        tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
        head = tensors.get("output.weight")
        self.head = None if head is None else torch.from_numpy(head.data.copy())
        if not markov:  # a Markov head of zeros, or none
            model = type(self.model)(replace(self.model.config, kind="dflash"))
            kept = model.state_dict().keys()
            state = {k: v for k, v in self.model.state_dict().items() if k in kept}
            model.load_state_dict(state)
            self.model = model.requires_grad_(False)

    def run(self, text: list[int]) -> tuple[Any, Any]:
        """Drafts and logits of the rows that draft, after `text`, which ends with the anchor."""
        config, embedding = self.model.config, self.tiny.model.embed_tokens
        states = self.tiny.states(text[:-1])
        features = torch.cat([states[layer] for layer in config.target_layers], -1)
        block = torch.tensor([[[text[-1]] + [config.mask_id] * (config.block_size - 1)]])
        with torch.inference_mode():
            hidden = self.model(features, torch.tensor([[len(text) - 1]]), embedding(block))
            logits = hidden @ (embedding.weight if self.head is None else self.head).T
            if self.only is not None:
                everything = torch.full((*logits.shape[:-1], N_VOCAB), -torch.inf)
                logits = everything.index_copy(-1, self.only, logits)
            drafts = self.model.propose(hidden, logits, block[..., 0])
            rows = logits[..., config.first_row :, :]
            if config.kind == "dspark":  # the session's have the Markov head's part
                before = torch.cat([block[..., :1], drafts[..., :-1]], -1)
                rows = rows + self.model.pairwise(hidden, before)
        return drafts[0, 0].numpy(), rows[0, 0].numpy()


@dataclass
class Case:
    """One publication: its converted file, and the same drafter in torch."""

    drafter: Path
    reference: TinyReference

    def compare(self, stock: llama_cpp.Llama) -> tuple[float, float]:
        """The share of drafts that are torch's, and the largest relative error of a logit."""
        same, agreement = [], Agreement()
        for block in _drafted(stock, self.drafter):
            drafts, logits = self.reference.run(block.text)
            same += [a == b for a, b in zip(block.drafts, drafts, strict=True)]
            if len(block.logits):
                finite = np.isfinite(logits)
                assert (np.isfinite(block.logits) == finite).all()
                agreement.add(np.where(finite, block.logits, 0), np.where(finite, logits, 0))
        return float(np.mean(same)), agreement.error


MakeCase = Callable[[str, Checkpoint], Case]


@pytest.fixture
def make_case(tiny: TorchVerifier, tiny_verifier: Path, tmp_path: Path) -> MakeCase:
    def make(name: str, checkpoint: Checkpoint) -> Case:
        item = PUBLISHED[name]
        source = write_checkpoint(tmp_path / name, checkpoint)
        drafter = convert(source, tiny_verifier, tmp_path / "d.gguf", outtype="f32").output
        original = f32_edition(str(item.original), tmp_path / "original.gguf", item.without)
        return Case(drafter, TinyReference(original, tiny, markov=not item.without))

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_drafts_and_logits_of_every_layout_are_torchs(
    name: str, stock: llama_cpp.Llama, make_case: MakeCase
) -> None:
    same, error = make_case(name, PUBLISHED[name].checkpoint).compare(stock)
    assert same > 0.99
    assert error < TOLERANCE


@pytest.mark.parametrize("name", ["c-full", "e", "f-dspark", "f-dflash"])
def test_a_head_that_is_not_the_embedding_is_the_one_that_is_used(
    name: str, stock: llama_cpp.Llama, tiny: TorchVerifier, make_case: MakeCase
) -> None:
    """Upstream's converter drops it and libllama falls back on the embedding."""
    published, head = PUBLISHED[name].checkpoint, _other_head(tiny)
    tables = {**published.tables, "lm_head.weight": head}
    case = make_case(name, replace(published, tables=tables))
    _, error = case.compare(stock)
    assert error > 100 * TOLERANCE  # with the embedding as head
    case.reference.head = torch.from_numpy(head)
    same, error = case.compare(stock)
    assert same > 0.99
    assert error < TOLERANCE


# ---- what layout A can set -----------------------------------------------------------------

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
WINDOW = {"use_sliding_window": True, "sliding_window": 12, "layer_types": [SLIDING]}
VARIANTS: dict[str, dict[str, Any]] = {
    "llama3": {"rope_scaling": LLAMA3},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "yarn": {"rope_scaling": YARN},
    "yarn-ramp": {"rope_scaling": {**YARN, "beta_fast": 12.0, "beta_slow": 2.0}},
    "yarn-magnitude": {"rope_scaling": {**YARN, "attention_factor": 0.9}},
    "sliding": {**WINDOW, "is_causal": False},
    "sliding-causal": {**WINDOW, "is_causal": True},
    "sliding-unsaid": WINDOW,
    "causal": {"is_causal": True},
    "gelu": {"hidden_act": "gelu_pytorch_tanh"},
    "untied-head": {"tie_word_embeddings": False},
}


def _variant(name: str, tiny: TorchVerifier) -> Checkpoint:
    weights = read_weights("dflash-b8")
    if name == "untied-head":
        weights["embed_tokens.weight"] = tiny.model.embed_tokens.weight.numpy()
        weights["lm_head.weight"] = _other_head(tiny)
    return Checkpoint(zlab(TOP, **{**FLAT, **VARIANTS.get(name, {})}), {}, weights, dtype="F32")


def _reference(source: Path, tiny: TorchVerifier, name: str) -> Reference:
    reference = Reference.load(source, tiny.model.embed_tokens.weight)
    if name == "untied-head":
        reference.head.weight = torch.nn.Parameter(torch.from_numpy(_other_head(tiny)))
    return reference


def _error(
    stock: llama_cpp.Llama, drafter: Path, reference: Reference, tiny: TorchVerifier
) -> float:
    agreement = Agreement()
    for block in _drafted(stock, drafter):
        states = tiny.states(block.text[:-1])
        theirs = reference.logits(states, block.text[-1], len(block.drafts))
        agreement.add(block.logits, theirs)
    return agreement.error


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_logits_of_layout_a_are_those_of_z_labs_model(
    name: str, stock: llama_cpp.Llama, tiny: TorchVerifier, tiny_verifier: Path, tmp_path: Path
) -> None:
    """And those of the same weights without the setting are not."""
    source = write_checkpoint(tmp_path / "variant", _variant(name, tiny))
    reference = _reference(source, tiny, name)
    drafter = convert(source, tiny_verifier, tmp_path / "d.gguf", outtype="f32").output
    plain = write_checkpoint(tmp_path / "plain", _variant("", tiny))
    without = convert(plain, tiny_verifier, tmp_path / "plain.gguf", outtype="f32").output
    errors = [_error(stock, file, reference, tiny) for file in (drafter, without)]
    tolerance = GELU_TOLERANCE if name == "gelu" else TOLERANCE
    assert errors[0] < tolerance
    assert errors[1] > 50 * tolerance


def test_sliding_layers_of_speculators_are_causal_as_in_z_labs_model(
    stock: llama_cpp.Llama, tiny: TorchVerifier, tiny_verifier: Path, tmp_path: Path
) -> None:
    """Upstream's converter loses that."""
    layout_c = PUBLISHED["c-full"].checkpoint
    layer = {**layout_c.config["transformer_layer_config"], **WINDOW}
    published = replace(layout_c, config={**layout_c.config, "transformer_layer_config": layer})
    source = write_checkpoint(tmp_path / "speculators", published)
    drafter = convert(source, tiny_verifier, tmp_path / "d.gguf", outtype="f32").output
    errors = []
    for name in ("sliding-causal", "sliding"):
        reference = _reference(write_checkpoint(tmp_path / name, _variant(name, tiny)), tiny, name)
        errors.append(_error(stock, drafter, reference, tiny))
    assert errors[0] < TOLERANCE
    assert errors[1] > 100 * TOLERANCE

"""Layers that no trained tiny drafter has, Gemma 4's and MiMo's, against torch.

Keys that are values, norms behind each half, partial rotation, sinks, a scale of what attention
puts out, a mask token's own row: with weights for which each of them matters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from dflash_local.convert import convert
from exactness import ONE_THREAD, session_on, tiny_prompts
from layout_configs import FULL
from layout_files import Checkpoint, values, write_checkpoint
from republished import publications
from tiny_weights import HEAD_DIM, MASK, Weights

torch: Any = pytest.importorskip("torch")
pytest.importorskip("dflash.model", reason="z-lab's reference is not installed")
from test_reference_parity import Agreement, Block, TorchVerifier, tiny_gguf  # noqa: E402

MakeLlama = Callable[..., Any]
EPS, N_HEAD, N_HEAD_KV = 1e-5, 4, 2
PUBLISHED = publications()


@dataclass(frozen=True)
class Layers:
    """One drafter layer in torch, as the trainers' models compute it.

    Attributes:
        frequencies: of the rotating pairs, [HEAD_DIM / 2]; 0 for those that stay.
        window: positions that a query sees before itself, itself among them.
    """

    weights: Weights
    frequencies: Any
    gemma: bool = False
    value_scale: float = 1.0
    window: int = 10_000

    def hidden(self, features: Any, rows: Any) -> Any:
        """Last hidden states [block, H] of a block's embeddings behind features [n, 3 H]."""
        context = self.norm(self.linear(features, "fc"), "hidden_norm")
        scale = rows.shape[-1] ** 0.5 if self.gemma else 1.0
        x = rows * scale
        out = self.attention(self.norm(x, "layers.0.input_layernorm"), context)
        x = x + self._behind(out, "layers.0.post_attention_layernorm")
        before = "pre_feedforward_layernorm" if self.gemma else "post_attention_layernorm"
        out = self.feed_forward(self.norm(x, f"layers.0.{before}"))
        x = x + self._behind(out, "layers.0.post_feedforward_layernorm")
        if self.gemma:
            x = x * self.weight("layers.0.layer_scalar")
        return self.norm(x, "norm")

    def attention(self, x: Any, context: Any) -> Any:
        n, positions = len(context), torch.arange(len(context) + len(x))
        both = torch.cat([context, x])
        queries = self._heads(x, "q", N_HEAD, positions[n:])
        keys = self._heads(both, "k", N_HEAD_KV, positions)
        values = self._values(both)
        n_groups = N_HEAD // N_HEAD_KV
        keys, values = (part.repeat_interleave(n_groups, 0) for part in (keys, values))
        scores = queries @ keys.mT * (1.0 if self.gemma else HEAD_DIM**-0.5)
        far = positions[n:, None] - positions >= self.window
        scores = scores.masked_fill(far, -torch.inf)
        sinks = self.weights.get("layers.0.self_attn.attention_sink_bias")
        if sinks is not None:
            column = torch.from_numpy(sinks)[:, None, None].expand(-1, len(x), 1)
            scores = torch.cat([scores, column], -1)
        shares = scores.softmax(-1)[..., : len(both)]
        out = (shares @ values).transpose(0, 1).flatten(1)
        return self.linear(out, "layers.0.self_attn.o_proj") * self.value_scale

    def feed_forward(self, x: Any) -> Any:
        gate = self.linear(x, "layers.0.mlp.gate_proj")
        functional = torch.nn.functional
        gate = functional.gelu(gate, approximate="tanh") if self.gemma else functional.silu(gate)
        up = self.linear(x, "layers.0.mlp.up_proj")
        return self.linear(gate * up, "layers.0.mlp.down_proj")

    def norm(self, x: Any, name: str) -> Any:
        return _normed(x) * self.weight(f"{name}.weight")

    def linear(self, x: Any, name: str) -> Any:
        return x @ self.weight(f"{name}.weight").T

    def weight(self, name: str) -> Any:
        return torch.from_numpy(self.weights[name])

    def _behind(self, x: Any, name: str) -> Any:
        return self.norm(x, name) if self.gemma else x

    def _heads(self, x: Any, name: str, n_head: int, positions: Any) -> Any:
        """Normed and rotated queries or keys, [heads, n, HEAD_DIM]."""
        flat = self.linear(x, f"layers.0.self_attn.{name}_proj").unflatten(-1, (n_head, -1))
        normed = self.norm(flat, f"layers.0.self_attn.{name}_norm").transpose(0, 1)
        angles = positions[:, None] * self.frequencies
        a, b = normed.chunk(2, -1)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)

    def _values(self, x: Any) -> Any:
        name = "k" if self.gemma else "v"
        flat = self.linear(x, f"layers.0.self_attn.{name}_proj").unflatten(-1, (N_HEAD_KV, -1))
        return (_normed(flat) if self.gemma else flat).transpose(0, 1)


def _normed(x: Any) -> Any:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)


def _frequencies(base: float, share: float = 1.0) -> Any:
    """The first pairs of a head turn, the others stay."""
    rates = base ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    rates[int(len(rates) * share) :] = 0
    return rates


@pytest.fixture(scope="module")
def tiny(tiny_verifier: Path) -> TorchVerifier:
    return TorchVerifier(tiny_gguf.read_verifier(tiny_verifier))


@pytest.fixture
def stock(make_llama: MakeLlama, tiny_verifier: Path) -> llama_cpp.Llama:
    llm: llama_cpp.Llama = make_llama(llama_cpp.Llama, tiny_verifier, **ONE_THREAD)
    return llm


def _drafted(stock: llama_cpp.Llama, drafter: Path) -> Iterator[Block]:
    with session_on(stock, drafter) as session:
        for prompt in tiny_prompts(stock, 2, seed=7):
            session.sync(prompt)
            session.step()
            for _ in range(4):
                drafts = session.propose().tokens
                rows = [session.draft_logits(row) for row in range(len(drafts))]
                yield Block(session.tokens, drafts, np.array(rows, np.float32))
                session.discard()
                session.step()


def _convert(checkpoint: Checkpoint, verifier: Path, folder: Path) -> Path:
    source = write_checkpoint(folder / "source", checkpoint)
    return convert(source, verifier, folder / "d.gguf", outtype="f32").output


Logits = Callable[[Layers, Block], Any]


def _agreement(blocks: list[Block], layers: Layers, logits: Logits) -> Agreement:
    agreement = Agreement()
    for block in blocks:
        with torch.inference_mode():
            agreement.add(block.logits, logits(layers, block).numpy())
    return agreement


def _check(blocks: list[Block], right: Layers, wrong: list[Layers], logits: Logits) -> None:
    """The layers give the session's logits, and those that lack something do not."""
    agreement = _agreement(blocks, right, logits)
    assert agreement.same == 1.0
    assert agreement.error < (1e-3 if right.gemma else 3e-5)  # ggml's GELU is a table of F16
    for layers in wrong:
        assert _agreement(blocks, layers, logits).error > 0.01


@pytest.mark.parametrize(("rope_type", "share"), [("proportional", 0.5), ("default", 1.0)])
def test_logits_of_gemma4_layers_are_torchs(
    rope_type: str,
    share: float,
    stock: llama_cpp.Llama,
    tiny: TorchVerifier,
    tiny_verifier: Path,
    tmp_path: Path,
) -> None:
    published = PUBLISHED["f-gemma4"].checkpoint
    rope = {"rope_type": rope_type, "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    checkpoint = replace(published, config={**published.config, "rope_parameters": {FULL: rope}})
    embedding = tiny.model.embed_tokens

    def logits(layers: Layers, block: Block) -> Any:
        anchor = block.text[-1]
        features = torch.cat(tiny.states(block.text[:-1])[1:4], -1)[0]
        rows = layers.hidden(features, embedding(torch.tensor([anchor, *[MASK] * 6])))
        before = layers.weight("markov_head.markov_w1.weight")[[anchor, *block.drafts[:-1]]]
        return rows @ embedding.weight.T + layers.linear(before, "markov_head.markov_w2")

    right = Layers(dict(published.tables), _frequencies(10000.0, share), gemma=True)
    blocks = list(_drafted(stock, _convert(checkpoint, tiny_verifier, tmp_path)))
    wrong = [replace(right, frequencies=_frequencies(10000.0, 1.5 - share))]
    _check(blocks, right, wrong, logits)


def test_logits_of_mimo_layers_are_torchs(
    stock: llama_cpp.Llama, tiny: TorchVerifier, tiny_verifier: Path, tmp_path: Path
) -> None:
    published = PUBLISHED["j"].checkpoint
    sinks = {"layers.0.self_attn.attention_sink_bias": np.array([1, -1, 2, 0.5], np.float32)}
    weights = {**published.tables, **sinks}
    nested = {**published.config["dflash_config"], "swa_window_size": 12}
    config = {**published.config, "dflash_config": {**nested, "attention_value_scale": 0.75}}
    mask = values("mask row", (64,)) / 4
    checkpoint = replace(published, config=config, tables=weights, mask_embedding=(MASK, mask))
    embedding = tiny.model.embed_tokens.weight

    def logits(layers: Layers, block: Block) -> Any:
        features = torch.cat(tiny.states(block.text[:-1])[1:4], -1)[0]
        masks = torch.from_numpy(mask).expand(7, -1)
        rows = torch.cat([embedding[block.text[-1]][None], masks])
        return layers.hidden(features, rows)[1:] @ embedding.T

    right = Layers(weights, _frequencies(10000.0), value_scale=0.75, window=12)
    without = {name: array for name, array in weights.items() if "sink" not in name}
    wrong = [
        replace(right, weights=without),
        replace(right, value_scale=1.0),
        replace(right, window=10_000),
    ]
    _check(
        list(_drafted(stock, _convert(checkpoint, tiny_verifier, tmp_path))), right, wrong, logits
    )

"""A drafter's forward pass in numpy: what a checkpoint says, without libllama and without torch.

It is for checking files, one block at a time: weights are streamed from where they lie, so memory
stays small, and every block reads all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..layouts.drafter import DrafterConfig
from ..reading.safetensors_file import Float32Array
from . import forward_ops as ops
from .forward_heads import Prediction, predict
from .forward_weights import EMBEDDING, Weight


@dataclass(frozen=True)
class NumpyDrafter:
    """A drafter to be run on given features.

    Attributes:
        weights: by GGUF name, as `forward_weights.with_borrowed` delivers them: embedding and
            head are among them.
    """

    config: DrafterConfig
    weights: Mapping[str, Weight]

    def predict(self, features: Float32Array, anchor: int, drafts: Sequence[int]) -> Prediction:
        """The predictions a block makes for the positions of ``drafts``.

        Args:
            features: [n, target layers * n_embd] of the n tokens before the anchor.
            anchor: the last token that is known; its position is n.
            drafts: what was drafted: heads that look at the token before (DSpark, DFlash2) are
                shown these. How many there are decides how long the block is.
        """
        states = self.states(features, anchor, len(drafts))
        return predict(self.config, self.weights, states, [anchor, *drafts[:-1]])

    def states(self, features: Float32Array, anchor: int, n_drafts: int) -> Float32Array:
        """The last hidden states, [n_drafts, n_embd], of the rows that predict."""
        markov = self.config.markov
        first = 0 if markov is not None and markov.from_anchor else 1
        block = [anchor] + [self.config.mask_token_id] * (n_drafts + first - 1)
        return self.hidden(features, block)[first:]

    def hidden(self, features: Float32Array, block: Sequence[int]) -> Float32Array:
        """The last hidden states, [block, n_embd], of the tokens of a block behind n features."""
        n = len(features)
        context = self._norm(self.weights["fc.weight"].project(features), "enc.output_norm.weight")
        table = ops.rotary_table(self.config.rope, self.config.head_dim, n + len(block))
        x = self.weights[EMBEDDING].rows(block)
        x *= np.float32(self.config.embedding_scale or 1)
        for index in range(self.config.n_layer):
            x = _Layer(self, index).run(x, context, table)
        return self._norm(x, "output_norm.weight")

    def _norm(self, x: Float32Array, name: str) -> Float32Array:
        return ops.rms_norm(x, self.weights[name].read(), self.config.rms_eps)


@dataclass(frozen=True)
class _Layer:
    """One decoder layer."""

    drafter: NumpyDrafter
    index: int

    def run(
        self, x: Float32Array, context: Float32Array, table: tuple[Float32Array, Float32Array]
    ) -> Float32Array:
        h = self._norm(x, "attn_norm")
        h = self._convolved("attn_conv", h, lambda y: self._attend(y, context, table))
        x = x + self._optional_norm(h, "post_attention_norm")
        h = self._norm(x, "ffn_norm")
        h = self._convolved("ffn_conv", h, self._feed_forward)
        x = x + self._optional_norm(h, "post_ffw_norm")
        scale = "layer_output_scale.weight"
        return x * self._read(scale) if scale in self else x

    def _attend(
        self, h: Float32Array, context: Float32Array, table: tuple[Float32Array, Float32Array]
    ) -> Float32Array:
        config, n = self.drafter.config, len(context)
        cos, sin = table
        q = self._heads(self._project(h, "attn_q"), "attn_q_norm")
        both = np.concatenate([context, h])  # keys and values of the text come from features
        projected = self._project(both, "attn_k")
        k = self._heads(projected, "attn_k_norm")
        if config.shared_kv:
            v = ops.rms_norm(self._heads(projected), None, config.rms_eps)
        else:
            v = self._heads(self._project(both, "attn_v"))
        y = ops.attention(
            ops.rotate(q, cos[n:], sin[n:]),
            ops.rotate(k, cos, sin),
            v,
            ops.visible(n, len(h), self._causal(), self._window()),
            config.attention_scale or 1 / math.sqrt(config.head_dim),
            self._read("attn_sinks.weight") if "attn_sinks.weight" in self else None,
        )
        out = self._project(y, "attn_output")
        return out if config.value_scale is None else np.float32(config.value_scale) * out

    def _feed_forward(self, h: Float32Array) -> Float32Array:
        activate = ops.silu if self.drafter.config.activation is None else ops.gelu_tanh
        gate = activate(self._project(h, "ffn_gate"))
        return self._project(gate * self._project(h, "ffn_up"), "ffn_down")

    def _convolved(
        self, name: str, h: Float32Array, inner: Callable[[Float32Array], Float32Array]
    ) -> Float32Array:
        if f"{name}_base" not in self:
            return inner(h)
        base = self._read(f"{name}_base")  # [before and after, taps, n_embd]
        dynamic = self._project(h, f"{name}_proj").reshape(len(h), 2, base.shape[1], -1)
        before, after = (dynamic[:, side] for side in (0, 1))
        return ops.convolve(inner(ops.convolve(h, before, base[0])), after, base[1])

    def _causal(self) -> bool:
        config = self.drafter.config
        layers = config.causal_layers
        return bool(config.causal if layers is None else layers[self.index])

    def _window(self) -> int | None:
        sliding = self.drafter.config.sliding
        return sliding.size if sliding is not None and sliding.pattern[self.index] else None

    def _heads(self, x: Float32Array, norm: str | None = None) -> Float32Array:
        """[n, heads * d] -> [n, heads, d]"""
        x = x.reshape(len(x), -1, self.drafter.config.head_dim)
        return x if norm is None else self._norm(x, norm)

    def __contains__(self, name: str) -> bool:
        return self._name(name) in self.drafter.weights

    def _name(self, name: str) -> str:
        return f"blk.{self.index}.{name}"

    def _project(self, x: Float32Array, name: str) -> Float32Array:
        return self.drafter.weights[self._name(f"{name}.weight")].project(x)

    def _read(self, name: str) -> Float32Array:
        return self.drafter.weights[self._name(name)].read()

    def _norm(self, x: Float32Array, name: str) -> Float32Array:
        return self.drafter._norm(x, self._name(f"{name}.weight"))

    def _optional_norm(self, x: Float32Array, name: str) -> Float32Array:
        return self._norm(x, name) if f"{name}.weight" in self else x

"""The drafter in torch, in z-lab's layout: Qwen3-style layers that read the verifier's features.

Written for training: many blocks of one text at once, each of which sees the features before its
anchor and its own positions, and nothing of the other blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import Qwen3Config

from .loss import Targets
from .rope import in_one_spelling, rates

Place = tuple[Tensor, Tensor]  # cosines and sines of positions


class DrafterModel(nn.Module):
    """z-lab's ``DFlashDraftModel``, without embedding and head: those are the verifier's.

    Args:
        config: Qwen3's, with ``dflash_config`` (target_layer_ids, mask_token_id) and
            ``block_size``, as config.json of the published layout has it.
    """

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.config = config
        n_features = len(config.dflash_config["target_layer_ids"]) * config.hidden_size
        self.fc = nn.Linear(n_features, config.hidden_size, bias=False)
        self.hidden_norm = Norm(config.hidden_size, config.rms_norm_eps)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)
        self.rotation = Rotation(config)

    def forward(self, features: Tensor, anchors: Tensor, blocks: Tensor) -> Tensor:
        """The hidden states of blocks.

        Args:
            features: [B, T, n_features], of positions 0 .. T - 1.
            anchors: [B, N], the position of each block's anchor; a block sees features before it.
            blocks: [B, N, S, H], embeddings of the anchor and of S - 1 mask tokens.

        Returns:
            [B, N, S, H]; row k > 0 predicts the token at position anchor + k.
        """
        context = self.hidden_norm(self.fc(features))
        n_context, size = context.shape[1], blocks.shape[2]
        rows = (anchors[..., None] + torch.arange(size, device=anchors.device)).flatten(1)
        keys = torch.arange(n_context, device=anchors.device).expand(len(anchors), -1)
        at_rows, at_keys = self.rotation(rows), self.rotation(torch.cat([keys, rows], dim=1))
        mask = visible(anchors, n_context, size)[:, None]
        hidden = blocks.flatten(1, 2)
        for layer in self.layers:
            hidden = layer(hidden, context, at_rows, at_keys, mask)
        out: Tensor = self.norm(hidden)
        return out.view(blocks.shape)

    @property
    def block_size(self) -> int:
        """Tokens of a block, the anchor among them."""
        return int(self.config.block_size)


def visible(anchors: Tensor, n_context: int, size: int) -> Tensor:
    """[B, N * S, T + N * S]: what each row of each block sees.

    Features of positions strictly before the block's anchor: the anchor itself has been emitted and
    not decoded, so a session has none of it when it drafts. And the rows of the row's own block, in
    both directions.
    """
    n_blocks = anchors.shape[1]
    context = torch.arange(n_context, device=anchors.device) < anchors[..., None]  # [B, N, T]
    block = torch.arange(n_blocks * size, device=anchors.device) // size
    own = (block[:, None] == block).expand(len(anchors), -1, -1)
    return torch.cat([context.repeat_interleave(size, dim=1), own], dim=-1)


class Norm(nn.Module):
    """RMSNorm, computed in F32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


class Rotation(nn.Module):
    """Rotary embedding: cosines and sines of positions [...] as [..., head_dim / 2] each."""

    rates: Tensor

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        found, self.magnitude = rates(config)
        self.register_buffer("rates", found, persistent=False)

    def forward(self, positions: Tensor) -> Place:
        angles = positions[..., None].float() * self.rates
        return angles.cos() * self.magnitude, angles.sin() * self.magnitude


def rotate(x: Tensor, at: Place) -> Tensor:
    """x [..., heads, head_dim] turned to positions; a pair is (i, i + head_dim / 2)."""
    cos, sin = (part[..., None, :].to(x.dtype) for part in at)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class Attention(nn.Module):
    """Queries of blocks; keys and values of the features and of the blocks themselves."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.head_dim = int(config.head_dim)
        n_q = config.num_attention_heads * self.head_dim
        n_kv = int(config.num_key_value_heads or config.num_attention_heads) * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, n_q, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, n_kv, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, n_kv, bias=False)
        self.o_proj = nn.Linear(n_q, config.hidden_size, bias=False)
        self.q_norm = Norm(config.head_dim, config.rms_norm_eps)
        self.k_norm = Norm(config.head_dim, config.rms_norm_eps)

    def forward(
        self, x: Tensor, context: Tensor, at_rows: Place, at_keys: Place, mask: Tensor
    ) -> Tensor:
        """x [B, R, H] of all blocks' rows, context [B, T, H], mask [B, 1, R, T + R]."""
        seen = torch.cat([context, x], dim=1)
        q = rotate(self.q_norm(self._heads(self.q_proj(x))), at_rows)
        k = rotate(self.k_norm(self._heads(self.k_proj(seen))), at_keys)
        v = self._heads(self.v_proj(seen))
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # [B, heads, rows, head_dim]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        projected: Tensor = self.o_proj(out.transpose(1, 2).flatten(2))
        return projected

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], -1, self.head_dim)


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """Attention and MLP, each behind a norm and beside the residual."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.input_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor, context: Tensor, *places: Any) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), context, *places)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Vocabulary(nn.Module):
    """The verifier's embedding and head, frozen, over the tokens that training can meet.

    The head is the largest part of a small drafter's training step; rows of tokens that no text
    holds only ever push down what is down already.

    Args:
        embedding: [V, H].
        head: [V, H].
        mask_token: stands for what is to be drafted.
        tokens: ids the loss is over, ascending; None: all.
    """

    embedding: Tensor
    head: Tensor
    tokens: Tensor
    index: Tensor

    def __init__(
        self, embedding: Tensor, head: Tensor, mask_token: int, tokens: Tensor | None = None
    ) -> None:
        super().__init__()
        n_vocab = embedding.shape[0]
        self.mask_token = mask_token
        tokens = torch.arange(n_vocab) if tokens is None else tokens
        index = torch.full((n_vocab,), -1, dtype=torch.long)
        index[tokens] = torch.arange(len(tokens))
        self.register_buffer("embedding", embedding, persistent=False)
        self.register_buffer("head", head[tokens].contiguous(), persistent=False)
        self.register_buffer("tokens", tokens, persistent=False)
        self.register_buffer("index", index, persistent=False)

    @property
    def device(self) -> torch.device:
        """Where embedding and head are."""
        return self.embedding.device

    def blocks(self, anchors: Tensor, size: int) -> Tensor:
        """Embeddings [..., size, H] of anchor tokens [...], each followed by masks."""
        masks = torch.full((*anchors.shape, size - 1), self.mask_token, device=anchors.device)
        return F.embedding(torch.cat([anchors[..., None], masks], -1), self.embedding)

    def rows(self, targets: Targets) -> Targets:
        """The same, its ids as rows of the head."""
        return replace(targets, ids=self.index[targets.ids])

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., H] to [..., len(tokens)]."""
        rows = hidden.reshape(-1, hidden.shape[-1])  # one product; of a view torch makes many
        return F.linear(rows, self.head.to(hidden.dtype)).view(*hidden.shape[:-1], -1)


def drafter_config(shape: Mapping[str, Any]) -> Qwen3Config:
    """A config from the fields of config.json.

    Raises:
        DFlashError: its rotary embedding is contradictory, or none that training knows.
    """
    return Qwen3Config(**in_one_spelling(shape, "config.json"))

"""The tiny verifier (llama) and drafters (DFlash, DFlash2, DSpark) in torch, as in libllama."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

HIDDEN, HEADS, KV_HEADS, HEAD_DIM = 64, 4, 2, 16
EPS, ROPE_BASE = 1e-5, 10000.0


def rope(x: Tensor, positions: Tensor, interleaved: bool) -> Tensor:
    """Rotate x [B, heads, n, d] to positions [B, n]: pairs (2i, 2i+1), or (i, i + d/2)."""
    d = x.shape[-1]
    rate = ROPE_BASE ** (-torch.arange(0, d, 2, dtype=torch.float32) / d)
    angle = positions[:, None, :, None].float() * rate
    cos, sin = angle.cos(), angle.sin()
    a, b = (x[..., 0::2], x[..., 1::2]) if interleaved else x.chunk(2, dim=-1)
    parts = (a * cos - b * sin, a * sin + b * cos)
    return torch.stack(parts, -1).flatten(-2) if interleaved else torch.cat(parts, -1)


def heads(x: Tensor) -> Tensor:
    """[B, n, h * d] -> [B, h, n, d]"""
    return x.view(*x.shape[:-1], -1, HEAD_DIM).transpose(1, 2)


def linear(n_in: int, n_out: int) -> nn.Linear:
    return nn.Linear(n_in, n_out, bias=False)


class Norm(nn.Module):
    """RMSNorm."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * self.weight


class Mlp(nn.Module):
    def __init__(self, n_ff: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = linear(HIDDEN, n_ff), linear(HIDDEN, n_ff)
        self.down_proj = linear(n_ff, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Attention(nn.Module):
    """Grouped-query attention; with `qk_norm` it is the drafter's, which also sees features."""

    def __init__(self, qk_norm: bool) -> None:
        super().__init__()
        self.q_proj = linear(HIDDEN, HEADS * HEAD_DIM)
        self.o_proj = linear(HEADS * HEAD_DIM, HIDDEN)
        self.k_proj = linear(HIDDEN, KV_HEADS * HEAD_DIM)
        self.v_proj = linear(HIDDEN, KV_HEADS * HEAD_DIM)
        self.q_norm = Norm(HEAD_DIM) if qk_norm else nn.Identity()
        self.k_norm = Norm(HEAD_DIM) if qk_norm else nn.Identity()
        self.interleaved = not qk_norm  # libllama's rope types: llama NORM, dflash NEOX

    def forward(self, x: Tensor, kv: Tensor, pos: Tensor, kv_pos: Tensor, mask: Tensor) -> Tensor:
        """x [B, n, H] attends to kv [B, m, H] where mask [B, 1, n, m] is true."""
        q = rope(self.q_norm(heads(self.q_proj(x))), pos, self.interleaved)
        k = rope(self.k_norm(heads(self.k_proj(kv))), kv_pos, self.interleaved)
        v = heads(self.v_proj(kv))
        k, v = (t.repeat_interleave(HEADS // KV_HEADS, dim=1) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.o_proj(y.transpose(1, 2).flatten(2))
        return out


class VerifierLayer(nn.Module):
    def __init__(self, n_ff: int) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = Norm(HIDDEN), Norm(HIDDEN)
        self.self_attn, self.mlp = Attention(qk_norm=False), Mlp(n_ff)

    def forward(self, x: Tensor, pos: Tensor, mask: Tensor) -> Tensor:
        h = self.input_layernorm(x)
        x = x + self.self_attn(h, h, pos, pos, mask)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Verifier(nn.Module):
    """A llama with tied embeddings."""

    def __init__(self, n_vocab: int, n_layer: int, n_ff: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(n_vocab, HIDDEN)
        self.layers = nn.ModuleList(VerifierLayer(n_ff) for _ in range(n_layer))
        self.norm = Norm(HIDDEN)
        nn.init.normal_(self.embed_tokens.weight, std=0.05)

    def forward(self, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
        """tokens [B, n] -> logits [B, n, V] and the input of every layer [B, n, H]."""
        n = tokens.shape[1]
        pos = torch.arange(n).expand(tokens.shape)
        mask = torch.ones(n, n, dtype=torch.bool).tril()[None, None]
        x, inputs = self.embed_tokens(tokens), []
        for layer in self.layers:
            inputs.append(x)
            x = layer(x, pos, mask)
        return F.linear(self.norm(x), self.embed_tokens.weight), inputs


@dataclass(frozen=True)
class DrafterConfig:
    """What a drafter is; `kind` is dflash, dflash2 or dspark."""

    kind: str
    block_size: int
    mask_id: int
    n_vocab: int
    target_layers: tuple[int, ...]  # inputs of the verifier's layers, as in GGUF
    n_layer: int = 1
    n_ff: int = 96
    sample_from_anchor: bool = False
    conv_kernel: int = 3
    conv_group: int = 16
    rank: int = 12
    top_k: int = 4

    @property
    def first_row(self) -> int:
        """The first row of a block that drafts."""
        return 0 if self.sample_from_anchor else 1

    @property
    def n_drafts(self) -> int:
        return self.block_size - self.first_row


class Conv(nn.Module):
    """DFlash2's grouped dynamic causal convolution over the rows of a block, before and after."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.kernel, self.group = config.conv_kernel, config.conv_group
        base = torch.zeros(2, self.kernel, HIDDEN)
        base[:, 0] = 1.0
        self.base_kernel = nn.Parameter(base)
        self.kernel_projection = linear(HIDDEN, 2 * self.kernel * (HIDDEN // self.group))

    def dynamic(self, x: Tensor) -> Tensor:
        """[..., block, H] -> [..., block, 2, kernel, groups]"""
        out: Tensor = self.kernel_projection(x)
        return out.view(*x.shape[:-1], 2, self.kernel, HIDDEN // self.group)

    def forward(self, x: Tensor, dynamic: Tensor, side: int) -> Tensor:
        out = torch.zeros_like(x)
        for tap in range(self.kernel):
            values = F.pad(x, (0, 0, tap, 0))[..., : x.shape[-2], :]
            weight = dynamic[..., side, tap, :].repeat_interleave(self.group, dim=-1)
            out = out + (weight + self.base_kernel[side, tap]) * values
        return out


class DrafterLayer(nn.Module):
    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.block_size = config.block_size
        self.input_layernorm, self.post_attention_layernorm = Norm(HIDDEN), Norm(HIDDEN)
        self.self_attn, self.mlp = Attention(qk_norm=True), Mlp(config.n_ff)
        if config.kind == "dflash2":
            self.attention_conv, self.mlp_conv = Conv(config), Conv(config)

    def forward(self, x: Tensor, ctx: Tensor, pos: Tensor, kv_pos: Tensor, mask: Tensor) -> Tensor:
        """x [B, n_blocks, block, H]; ctx [B, T, H], the fused features."""

        def attend(h: Tensor) -> Tensor:
            flat = h.flatten(1, 2)
            y: Tensor = self.self_attn(flat, torch.cat([ctx, flat], 1), pos, kv_pos, mask)
            return y.view_as(h)

        x = x + self._convolved("attention_conv", attend, self.input_layernorm(x))
        return x + self._convolved("mlp_conv", self.mlp, self.post_attention_layernorm(x))

    def _convolved(self, name: str, inner: nn.Module | object, h: Tensor) -> Tensor:
        assert callable(inner)
        conv = getattr(self, name, None)
        if conv is None:
            plain: Tensor = inner(h)
            return plain
        dynamic = conv.dynamic(h)
        out: Tensor = conv(inner(conv(h, dynamic, 0)), dynamic, 1)
        return out


class Selector(nn.Module):
    """DFlash2's scores of a token after the one before it; for all tokens, not the top k alone."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.predecessor_codebook = nn.Embedding(config.n_vocab, config.rank)
        self.successor_codebook = nn.Embedding(config.n_vocab, config.rank)
        self.hidden_projection = linear(HIDDEN, config.rank)

    def forward(self, hidden: Tensor, previous: Tensor) -> Tensor:
        state = self.predecessor_codebook(previous) * self.hidden_projection(hidden)
        return F.linear(state, self.successor_codebook.weight)


class MarkovHead(nn.Module):
    """DSpark's bias on the logits, of low rank, from the token before."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.markov_w1 = nn.Embedding(config.n_vocab, config.rank)
        self.markov_w2 = linear(config.rank, config.n_vocab)

    def forward(self, previous: Tensor) -> Tensor:
        out: Tensor = self.markov_w2(self.markov_w1(previous))
        return out


class ConfidenceHead(nn.Module):
    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.proj = nn.Linear(HIDDEN + config.rank, 1)


class Drafter(nn.Module):
    """A DFlash drafter; parameter names are those of the published checkpoints."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.config = config
        self.fc = linear(len(config.target_layers) * HIDDEN, HIDDEN)
        self.hidden_norm, self.norm = Norm(HIDDEN), Norm(HIDDEN)
        self.layers = nn.ModuleList(DrafterLayer(config) for _ in range(config.n_layer))
        if config.kind == "dflash2":
            self.candidate_selector = Selector(config)
        if config.kind == "dspark":
            self.markov_head, self.confidence_head = MarkovHead(config), ConfidenceHead(config)

    def forward(self, features: Tensor, anchors: Tensor, rows: Tensor) -> Tensor:
        """Last hidden state [B, A, block, H] of the blocks that begin at `anchors` [B, A].

        features [B, T, n_target_layers * H]; rows [B, A, block, H], embeddings of the block's
        tokens. A block sees features strictly before its anchor, and all of itself.
        """
        n, block, n_ctx = anchors.shape[1], rows.shape[2], features.shape[1]
        ctx = self.hidden_norm(self.fc(features))
        pos = (anchors[:, :, None] + torch.arange(block)).flatten(1)
        ctx_pos = torch.arange(n_ctx).expand(len(anchors), n_ctx)
        before = ctx_pos[:, None, :] < anchors.repeat_interleave(block, 1)[:, :, None]
        own = torch.eye(n).repeat_interleave(block, 0).repeat_interleave(block, 1).bool()
        mask = torch.cat([before, own.expand(len(anchors), -1, -1)], 2)[:, None]
        for layer in self.layers:
            rows = layer(rows, ctx, pos, torch.cat([ctx_pos, pos], 1), mask)
        out: Tensor = self.norm(rows)
        return out

    def pairwise(self, hidden: Tensor, previous: Tensor) -> Tensor | float:
        """What the head adds to the logits [..., V] given the token before; 0 for plain DFlash."""
        if self.config.kind == "dspark":
            bias: Tensor = self.markov_head(previous)
            return bias
        if self.config.kind == "dflash2":
            scores: Tensor = self.candidate_selector(hidden, previous)
            return scores
        return 0.0

    def confidence(self, hidden: Tensor, previous: Tensor) -> Tensor:
        """DSpark's logit [...] that the row's draft is right."""
        state = torch.cat([hidden, self.markov_head.markov_w1(previous)], -1)
        out: Tensor = self.confidence_head.proj(state)
        return out.squeeze(-1)

    def propose(self, hidden: Tensor, logits: Tensor, anchor: Tensor) -> Tensor:
        """Greedy drafts [..., n_drafts] of blocks [..., block, H] whose first token is `anchor`."""
        drafts: list[Tensor] = []
        for row in range(self.config.first_row, hidden.shape[-2]):
            scores = logits[..., row, :]
            if self.config.kind == "dflash2":
                floor = scores.topk(self.config.top_k, -1).values[..., -1:]
                scores = scores.masked_fill(scores < floor, -torch.inf)
            previous = drafts[-1] if drafts else anchor
            drafts.append((scores + self.pairwise(hidden[..., row, :], previous)).argmax(-1))
        return torch.stack(drafts, -1)

"""A drafter that begins as the verifier's own last layers.

The top feature goes through ``fc`` unchanged, so a drafter layer attends to what the verifier's
layer would have: it has to learn what masks are, not what language is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .examples import Batch
from .model import DrafterModel, Layer, Vocabulary
from .verifiers.verifier import Weights

_ATTENTION = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output")
_MLP = ("ffn_norm", "ffn_gate", "ffn_up", "ffn_down")


def can_warm_start(verifier: Weights, n_layers: int) -> bool:
    """Whether its last layers are of the kind a drafter's are: attention and a gated MLP."""
    last = range(verifier.sizes.n_layer)[-n_layers:]
    return all(verifier.has_part(i, name) for i in last for name in (*_ATTENTION, *_MLP))


@torch.no_grad()
def warm_start(model: DrafterModel, verifier: Weights) -> None:
    """Takes over the verifier's last layers. ``calibrate`` has to follow.

    A drafter's keys are made of features and of block rows by the same weights, so the norm before
    them is folded into the projections: both then pass through a norm of ones.
    """
    n_layer = verifier.sizes.n_layer
    first = n_layer - len(model.layers)
    for index, layer in enumerate(model.layers):
        _copy_layer(layer, verifier, first + index)
    model.fc.weight.zero_()
    size = model.fc.weight.shape[0]
    model.fc.weight[:, -size:] = torch.eye(size)
    model.norm.weight.copy_(torch.from_numpy(verifier.output_norm))


def _copy_layer(layer: nn.Module, verifier: Weights, index: int) -> None:
    assert isinstance(layer, Layer)
    attention, mlp = layer.self_attn, layer.mlp

    def read(name: str) -> Tensor:
        return torch.from_numpy(verifier.part(index, name))

    before = read("attn_norm")
    attention.q_proj.weight.copy_(read("attn_q") * before)
    attention.k_proj.weight.copy_(read("attn_k") * before)
    attention.v_proj.weight.copy_(read("attn_v") * before)
    attention.o_proj.weight.copy_(read("attn_output"))
    layer.input_layernorm.weight.fill_(1.0)
    layer.post_attention_layernorm.weight.copy_(read("ffn_norm"))
    mlp.gate_proj.weight.copy_(read("ffn_gate"))
    mlp.up_proj.weight.copy_(read("ffn_up"))
    mlp.down_proj.weight.copy_(read("ffn_down"))


@torch.no_grad()
def calibrate(model: DrafterModel, vocabulary: Vocabulary, batch: Batch, verifier: Weights) -> None:
    """Gives the norms of q and k, which most verifiers lack, the size that q and k have.

    Layer by layer: what a layer puts out depends on the norms before it.
    """
    first = verifier.sizes.n_layer - len(model.layers)
    hooks = []
    for index, layer in enumerate(model.layers):
        for name in ("q_norm", "k_norm"):
            norm = getattr(layer.self_attn, name)
            own = (first + index, f"attn_{name}")
            if verifier.has_part(*own):
                norm.weight.copy_(torch.from_numpy(verifier.part(*own)))
            else:
                hooks.append(norm.register_forward_pre_hook(_take_size))
    model(batch.features, batch.anchors, vocabulary.blocks(batch.anchor_tokens, model.block_size))
    for hook in hooks:
        hook.remove()


def _take_size(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    size = inputs[0].float().square().mean(-1).sqrt().mean()
    norm.weight.fill_(float(size))  # type: ignore[operator]

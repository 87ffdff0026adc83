"""What a drafter is, whatever its checkpoint's layout: the middle of the conversion."""

from __future__ import annotations

from dataclasses import dataclass

from .rope import Rope


@dataclass(frozen=True)
class SlidingWindow:
    """Layers that see only the last ``size`` positions; ``pattern`` has one flag a layer."""

    size: int
    pattern: tuple[bool, ...]


@dataclass(frozen=True)
class DrafterConfig:
    """A drafter's sizes and settings, as every layout's reader delivers them.

    Attributes:
        n_ctx: positions it was trained for.
        n_vocab: the verifier's vocabulary as the config states it, or None.
        n_verifier_layers: as the config states it, or None.
        target_layer_ids: as published: the verifier's layers whose *outputs* are read.
        block_size: positions of a block, the anchor among them.
        causal: attention inside a block; None leaves llama.cpp's rule (non-causal).
        activation: of the feed-forward part, in llama.cpp's spelling; None is silu.
        tied: the checkpoint's own embedding is also its head; None where nothing is said.
        interleaved_rope: rotating pairs are neighbours; llama.cpp wants halves.
        warnings: what the user should know although the conversion goes on.
    """

    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_ctx: int
    rms_eps: float
    n_vocab: int | None
    n_verifier_layers: int | None
    target_layer_ids: tuple[int, ...]
    block_size: int
    mask_token_id: int
    rope: Rope
    sliding: SlidingWindow | None = None
    causal: bool | None = None
    activation: str | None = None
    tied: bool | None = None
    interleaved_rope: bool = False
    logit_scale: float | None = None
    final_logit_softcapping: float | None = None
    embedding_scale: float | None = None
    warnings: tuple[str, ...] = ()

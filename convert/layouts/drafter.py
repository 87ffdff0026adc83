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
class MarkovHead:
    """What makes a DSpark file: each draft's logits are biased by the token before it.

    Attributes:
        rank: width of the two factors.
        trained: False for a head of zeros. It changes no logit, but its presence tells llama.cpp
            to read the block from the anchor's row on, as such a drafter was trained.
        from_anchor: the anchor's row predicts the first draft; else the first mask's row does.
        confidence: there is a head that predicts whether a draft will be accepted.
    """

    rank: int
    trained: bool
    from_anchor: bool
    confidence: bool


@dataclass(frozen=True)
class Selector:
    """What makes a DFlash2 file: convolutions in every layer, and a choice among candidates.

    Attributes:
        kernel_size: taps of a convolution.
        group_size: hidden channels that share a dynamic kernel.
        rank: width of the two codebooks.
        top_k: candidates of a position.
    """

    kernel_size: int
    group_size: int
    rank: int
    top_k: int


@dataclass(frozen=True)
class DrafterConfig:
    """A drafter's sizes and settings, as every layout's reader delivers them.

    Attributes:
        n_ctx: positions it was trained for.
        n_vocab: the verifier's vocabulary as the config states it, or None.
        n_vocab_draft: rows of a head that knows a part of the vocabulary only; None is all.
        n_verifier_layers: as the config states it, or None.
        target_layer_ids: the verifier's layers whose *outputs* are read; -1 is its embedding.
        block_size: positions of a block, the anchor among them.
        causal: attention inside a block; None leaves llama.cpp's rule (non-causal).
        causal_layers: one flag a layer where the trainer's model mixes both; libllama cannot.
        activation: of the feed-forward part, in llama.cpp's spelling; None is silu.
        tied: the checkpoint's own embedding is also its head; None where nothing is said.
        interleaved_rope: rotating pairs are neighbours; llama.cpp wants halves.
        shared_kv: values are keys before their norm and rotation; there is no ``v_proj``.
        sandwich_norms: Gemma's layers, with norms behind attention and feed-forward too.
        attention_scale: of the scores; None is one over the root of ``head_dim``.
        value_scale: of what attention puts out; None is 1.
        mask_embedding: the mask token's trained row, where it is not in the embedding.
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
    n_vocab_draft: int | None = None
    sliding: SlidingWindow | None = None
    causal: bool | None = None
    causal_layers: tuple[bool, ...] | None = None
    activation: str | None = None
    tied: bool | None = None
    interleaved_rope: bool = False
    shared_kv: bool = False
    sandwich_norms: bool = False
    attention_scale: float | None = None
    value_scale: float | None = None
    logit_scale: float | None = None
    final_logit_softcapping: float | None = None
    embedding_scale: float | None = None
    markov: MarkovHead | None = None
    selector: Selector | None = None
    mask_embedding: tuple[float, ...] | None = None
    warnings: tuple[str, ...] = ()

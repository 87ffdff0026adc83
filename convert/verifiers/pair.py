"""Whether a drafter and a verifier belong together, as far as their files can tell."""

from __future__ import annotations

from collections.abc import Collection

from ..layouts import target_layers
from ..layouts.drafter import DrafterConfig
from ..layouts.rope import frequency_factors
from .verifier import Verifier


def pair_problems(
    config: DrafterConfig, verifier: Verifier, written: Collection[str] = ()
) -> list[str]:
    """Every reason why the two do not fit, one line each, found against expected.

    Args:
        written: GGUF names of the tensors the drafter brings along.
    """
    name = verifier.path.name
    problems = []
    if config.n_embd != verifier.n_embd:
        problems.append(
            f"hidden size: the drafter has {config.n_embd}, the verifier {name} {verifier.n_embd}"
        )
    if config.n_vocab not in (None, verifier.n_vocab):
        problems.append(
            f"vocabulary: the drafter has {config.n_vocab} tokens, the verifier {name} "
            f"{verifier.n_vocab}"
        )
    if config.n_verifier_layers not in (None, verifier.n_layer):
        problems.append(
            f"layers: the drafter was trained for a verifier with {config.n_verifier_layers}, "
            f"{name} has {verifier.n_layer}"
        )
    problems += target_layers.problems(
        config.target_layer_ids, verifier.architecture, verifier.n_layer
    )
    return [
        *problems,
        *mask_problems(config.mask_token_id, verifier),
        *_head_problems(config, verifier, written),
        *_rope_problems(config, verifier),
    ]


def mask_problems(mask_token: int, verifier: Verifier) -> list[str]:
    """Why a token cannot stand for what is drafted: the drafter borrows its embedding."""
    if mask_token < verifier.n_rows:
        return []
    return [
        f"mask token {mask_token} has no row in the verifier's token embedding; "
        f"expected an id below {verifier.n_rows}"
    ]


def uses_mrope(config: DrafterConfig, verifier: Verifier) -> bool:
    """Whether the drafter rotates by the temporal axis of a multi-axis embedding."""
    return config.rope.mrope or verifier.mrope


def _head_problems(
    config: DrafterConfig, verifier: Verifier, written: Collection[str]
) -> list[str]:
    tied = config.tied if config.tied is not None else not verifier.has_head
    borrowed = config.mask_embedding is not None  # then both come from the verifier
    if "token_embd.weight" not in written or "output.weight" in written or tied or borrowed:
        return []
    return [
        "embed_tokens.weight without lm_head.weight, and not tied: libllama would use the "
        "embedding as head. Add lm_head.weight, or set `has_embed_tokens` to false in config.json "
        "to borrow both from the verifier"
    ]


def _rope_problems(config: DrafterConfig, verifier: Verifier) -> list[str]:
    rope = config.rope
    if frequency_factors(rope, config.head_dim) is None or not uses_mrope(config, verifier):
        return []
    kinds = {"llama3 rope scaling": rope.llama3, "YaRN with settings of its own": rope.yarn}
    kind = next((kind for kind, found in kinds.items() if found), "proportional rope")
    return [
        f"{kind} with a multi-axis (M-RoPE) verifier: libllama's dflash graph ignores the factors "
        "there"
    ]

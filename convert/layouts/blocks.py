"""What all layouts share: the sizes and settings of a stack of Qwen3-style layers."""

from __future__ import annotations

from ..reading.fields import Fields
from ..reading.mask_embedding import read_mask_embedding
from ..reading.source import Source
from .attention import sliding_window
from .drafter import DrafterConfig
from .names import find
from .rope import parse_rope
from .target_layers import published_ids
from .vocabulary import draft_rows, heads_are_equal, stored_rows

MAX_LAYERS = 512  # libllama's LLAMA_MAX_LAYERS
ACTIVATIONS = {
    "silu": None,
    "swish": None,
    "gelu_pytorch_tanh": "gelu_pytorch_tanh",
    "gelu_new": "gelu_pytorch_tanh",
}


def parse_blocks(
    source: Source,
    block: Fields,
    draft: Fields,
    *,
    block_size: int,
    target_layer_ids: tuple[int, ...] | None = None,
) -> DrafterConfig:
    """Read what every drafter has; its problems are collected in ``block`` and ``draft``.

    Args:
        block: the fields of the transformer.
        draft: the fields that make it a drafter; may hold the transformer's too.
        block_size: the anchor among its positions.
        target_layer_ids: layers whose outputs are read; None takes them from ``draft``.
    """
    _refuse_inexpressible(source, block)
    n_embd, n_head, n_head_kv, head_dim = _widths(block, source)
    n_layer = block.integer("num_hidden_layers", high=MAX_LAYERS)
    n_vocab = block.integer("vocab_size", 0) or stored_rows(source)
    mask_token_id = draft.integer("mask_token_id", low=0)
    warnings: list[str] = []
    if target_layer_ids is None:
        target_layer_ids = published_ids(draft, n_layer, warnings)
    return DrafterConfig(
        n_layer=n_layer,
        n_embd=n_embd,
        n_ff=block.integer("intermediate_size"),
        n_head=n_head,
        n_head_kv=n_head_kv,
        head_dim=head_dim,
        n_ctx=block.integer("max_position_embeddings"),
        rms_eps=block.number("norm_eps" if block.get("rms_norm_eps") is None else "rms_norm_eps"),
        n_vocab=n_vocab,
        n_vocab_draft=draft_rows(source, draft, n_vocab),
        n_verifier_layers=draft.integer("num_target_layers", 0) or None,
        target_layer_ids=target_layer_ids,
        block_size=block_size,
        mask_token_id=mask_token_id,
        rope=parse_rope(block, head_dim),
        sliding=sliding_window(block, draft, n_layer),
        activation=_activation(block),
        tied=heads_are_equal(source, block.flag("tie_word_embeddings")),
        interleaved_rope=block.flag("rope_is_neox_style", True) is False,
        logit_scale=draft.optional_number("output_multiplier"),
        final_logit_softcapping=draft.number("final_logit_softcapping", 0.0, positive=False)
        or None,
        embedding_scale=draft.optional_number("input_embedding_scale"),
        mask_embedding=read_mask_embedding(source, mask_token_id, n_embd, draft.problems),
        warnings=tuple(warnings),
    )


def _widths(block: Fields, source: Source) -> tuple[int, int, int, int]:
    n_embd = block.integer("hidden_size")
    n_head = block.integer("num_attention_heads")
    n_head_kv = block.integer("num_key_value_heads")
    if n_head % n_head_kv:
        block.problems.append(
            f"`num_key_value_heads`: found {n_head_kv}, expected a divisor of the {n_head} heads"
        )
    head_dim = block.integer("head_dim", _stored_head_dim(source) or max(n_embd // n_head, 2))
    if head_dim % 2:
        block.problems.append(f"`head_dim`: found {head_dim}, expected an even number")
    return n_embd, n_head, n_head_kv, head_dim


def _stored_head_dim(source: Source) -> int | None:
    # Where the config is silent, transformers and llama.cpp assume different things: ask the norm.
    norm = find(source, "layers.0.self_attn.q_norm.weight")
    return norm.shape[0] if norm is not None and norm.shape else None


def _activation(block: Fields) -> str | None:
    name = str(block.get("hidden_act") or "silu")
    if name not in ACTIVATIONS:
        expected = ", ".join(ACTIVATIONS)
        block.problems.append(f"`hidden_act`: found {name!r}, expected one of {expected}")
    return ACTIVATIONS.get(name)


def _refuse_inexpressible(source: Source, block: Fields) -> None:
    problems = block.problems
    for name in ("attention_bias", "mlp_bias"):
        if block.flag(name, False):
            problems.append(
                f"`{name}`: found true, but llama.cpp's dflash graph loads no biases; the drafter "
                "has to be trained without them"
            )
    if block.get("quantization_config") or source.config.get("quantization_config"):
        problems.append(
            "`quantization_config`: quantised weights are not read; expected the F32, F16 or BF16 "
            "checkpoint"
        )
    if find(source, "layers.0.self_attn.k_proj.weight") and not any(
        name.endswith("self_attn.k_norm.weight") for name in source.tensors
    ):
        problems.append(
            "no q_norm and k_norm (plain Llama layers): llama.cpp's dflash graph needs them; the "
            "drafter has to be trained with Qwen3-style layers"
        )
    if any(".mlp.experts." in name for name in source.tensors):
        problems.append(
            "a mixture of experts in the drafter: llama.cpp's dflash graph has dense layers only; "
            "the drafter has to be trained with them"
        )
    _refuse_width(block, source)


def _refuse_width(block: Fields, source: Source) -> None:
    target = Fields(source.config, block.problems).integer("target_hidden_size", 0)
    if target and target != block.get("hidden_size"):
        block.problems.append(
            f"`target_hidden_size`: found {target}, expected the drafter's own "
            f"{block.get('hidden_size')}: llama.cpp's dflash graph has one width for both"
        )

"""Layout A: z-lab's DFlash (also SpecForge, ModelOpt, TorchSpec): a flat Qwen3 config."""

from __future__ import annotations

from .drafter import DrafterConfig, SlidingWindow
from .fields import Fields, raise_problems
from .names import Expected, find, layer_tensors, stored_rows, vocabulary_tensors
from .rope import parse_rope
from .source import Source
from .target_layers import default_ids

MAX_LAYERS = 512  # libllama's LLAMA_MAX_LAYERS
DEFAULT_BLOCK_SIZE = 16  # z-lab's and llama.cpp's
ACTIVATIONS = {
    "silu": None,
    "swish": None,
    "gelu_pytorch_tanh": "gelu_pytorch_tanh",
    "gelu_new": "gelu_pytorch_tanh",
}


def parse_config(source: Source) -> DrafterConfig:
    """Read and check config.json.

    Raises:
        ModelError: lists every field that is missing, wrong or cannot be expressed in GGUF.
    """
    top = Fields(source.config, [])
    nested = top.section("dflash_config")
    draft = Fields({**source.config, **nested}, top.problems)
    _refuse_inexpressible(top, source)
    sizes = _sizes(top, source)
    warnings: list[str] = []
    config = DrafterConfig(
        **sizes,
        rms_eps=top.number("rms_norm_eps"),
        n_vocab=top.integer("vocab_size", 0) or stored_rows(source),
        n_verifier_layers=top.integer("num_target_layers", 0) or None,
        target_layer_ids=_target_layer_ids(draft, sizes["n_layer"], warnings),
        block_size=draft.integer("block_size", DEFAULT_BLOCK_SIZE, low=2),
        mask_token_id=draft.integer("mask_token_id", low=0),
        rope=parse_rope(top, sizes["head_dim"]),
        sliding=_sliding(draft, sizes["n_layer"]),
        causal=_causal(top, Fields(nested, top.problems), warnings),
        activation=_activation(top),
        tied=top.flag("tie_word_embeddings"),
        interleaved_rope=top.flag("rope_is_neox_style", True) is False,
        logit_scale=draft.optional_number("output_multiplier"),
        final_logit_softcapping=draft.number("final_logit_softcapping", 0.0, positive=False)
        or None,
        embedding_scale=draft.optional_number("input_embedding_scale"),
        warnings=tuple(warnings),
    )
    raise_problems(source.folder / "config.json", top.problems)
    return config


def expected_tensors(config: DrafterConfig, source: Source) -> list[Expected]:
    """Every tensor a checkpoint of this layout has, in the order they are written."""
    n_features = len(config.target_layer_ids) * config.n_embd
    return [
        Expected("fc.weight", "fc.weight", (config.n_embd, n_features)),
        Expected("hidden_norm.weight", "enc.output_norm.weight", (config.n_embd,)),
        *(tensor for layer in range(config.n_layer) for tensor in layer_tensors(config, layer)),
        Expected("norm.weight", "output_norm.weight", (config.n_embd,)),
        *vocabulary_tensors(config, source),
    ]


def _sizes(top: Fields, source: Source) -> dict[str, int]:
    n_embd = top.integer("hidden_size")
    n_head = top.integer("num_attention_heads")
    n_head_kv = top.integer("num_key_value_heads")
    if n_head % n_head_kv:
        top.problems.append(
            f"`num_key_value_heads`: found {n_head_kv}, expected a divisor of the {n_head} heads"
        )
    head_dim = top.integer("head_dim", _stored_head_dim(source) or max(n_embd // n_head, 2))
    if head_dim % 2:
        top.problems.append(f"`head_dim`: found {head_dim}, expected an even number")
    return {
        "n_layer": top.integer("num_hidden_layers", high=MAX_LAYERS),
        "n_embd": n_embd,
        "n_ff": top.integer("intermediate_size"),
        "n_head": n_head,
        "n_head_kv": n_head_kv,
        "head_dim": head_dim,
        "n_ctx": top.integer("max_position_embeddings"),
    }


def _stored_head_dim(source: Source) -> int | None:
    # Where the config is silent, transformers and llama.cpp assume different things: ask the norm.
    norm = find(source, "layers.0.self_attn.q_norm.weight")
    return norm.shape[0] if norm is not None and norm.shape else None


def _target_layer_ids(draft: Fields, n_layer: int, warnings: list[str]) -> tuple[int, ...]:
    ids = draft.integers("target_layer_ids")
    if ids is not None or draft.get("target_layer_ids") is not None:
        return ids or ()
    ids = tuple(default_ids(draft.integer("num_target_layers"), n_layer))
    warnings.append(f"no `target_layer_ids`: took z-lab's default, {list(ids)}")
    return ids


def _sliding(draft: Fields, n_layer: int) -> SlidingWindow | None:
    everywhere = bool(draft.flag("use_swa"))
    in_use = everywhere or bool(draft.flag("use_sliding_window"))
    name = next((name for name in ("swa_window_size", "sliding_window") if draft.get(name)), None)
    if name is None or not in_use:
        return None
    kinds = _layer_types(draft, n_layer)
    pattern = tuple(everywhere or kind == "sliding_attention" for kind in kinds)
    return SlidingWindow(draft.integer(name), pattern)


def _layer_types(draft: Fields, n_layer: int) -> list[str]:
    types = draft.get("layer_types")
    if types is None:  # transformers' rule for Qwen3
        first = draft.integer("max_window_layers", 28, low=0)
        return ["sliding_attention" if i >= first else "full_attention" for i in range(n_layer)]
    if isinstance(types, list) and len(types) == n_layer:
        return types
    draft.problems.append(f"`layer_types`: found {types!r:.60}, expected one entry a layer")
    return []


def _causal(top: Fields, nested: Fields, warnings: list[str]) -> bool | None:
    causal = top.flag("is_causal", nested.flag("causal"))
    types = top.get("layer_types")
    if causal is None and isinstance(types, list) and "sliding_attention" in types:
        warnings.append(
            "sliding layers and no `is_causal`: z-lab's model makes such layers causal, llama.cpp "
            "drafts without a causal mask; if acceptance is low, set `is_causal` in the config"
        )
    return causal


def _activation(top: Fields) -> str | None:
    name = str(top.get("hidden_act") or "silu")
    if name not in ACTIVATIONS:
        expected = ", ".join(ACTIVATIONS)
        top.problems.append(f"`hidden_act`: found {name!r}, expected one of {expected}")
    return ACTIVATIONS.get(name)


def _refuse_inexpressible(top: Fields, source: Source) -> None:
    for name in ("attention_bias", "mlp_bias"):
        if top.flag(name, False):
            top.problems.append(
                f"`{name}`: found true, but llama.cpp's dflash graph loads no biases; the drafter "
                "has to be trained without them"
            )
    if source.config.get("quantization_config"):
        top.problems.append(
            "`quantization_config`: quantised weights are not read; expected the F32, F16 or BF16 "
            "checkpoint"
        )

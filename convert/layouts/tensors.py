"""The tensors of a drafter, by what its config says it has: published and GGUF names, shapes."""

from __future__ import annotations

from ..reading.source import Source
from .drafter import DrafterConfig, MarkovHead, Selector
from .names import Expected, find, spelled
from .vocabulary import vocabulary_tensors

FEATURES, FEATURES_NORM = "fc.weight", "hidden_norm.weight"
SINKS = ("sinks", "attention_sink_bias", "learnable_sink_param")
MARKOV_FACTORS = ("markov_head.markov_w1.weight", "markov_head.markov_w2.weight")
CONFIDENCE = ("confidence_head.proj", "confidence_proj")
# Gemma has norms on both sides; what Qwen calls by the second name lies before its feed-forward.
QWEN_NORMS = (("post_attention_layernorm", "ffn_norm"),)
SANDWICH_NORMS = (
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
)


def drafter_tensors(
    config: DrafterConfig,
    source: Source,
    *,
    features: str = FEATURES,
    features_norm: str = FEATURES_NORM,
) -> list[Expected]:
    """Every tensor a checkpoint must have, in the order they are written.

    Args:
        features: published name of the matrix that fuses the verifier's features.
        features_norm: published name of the norm behind it.
    """
    n_embd, n_features = config.n_embd, len(config.target_layer_ids) * config.n_embd
    layers = range(config.n_layer)
    return [
        Expected(features, "fc.weight", (n_embd, n_features)),
        Expected(features_norm, "enc.output_norm.weight", (n_embd,)),
        *(tensor for layer in layers for tensor in _layer_tensors(config, source, layer)),
        Expected("norm.weight", "output_norm.weight", (n_embd,)),
        *(_selector_tensors(config, config.selector, source) if config.selector else ()),
        *(_markov_tensors(config, config.markov, source) if config.markov else ()),
        *vocabulary_tensors(config, source),
    ]


def _layer_tensors(config: DrafterConfig, source: Source, layer: int) -> list[Expected]:
    published, written = f"layers.{layer}", f"blk.{layer}"
    tensors = [
        Expected(f"{published}.{name}.weight", f"{written}.{target}.weight", shape, pairs)
        for name, target, shape, pairs in (*_attention_rows(config), *_feed_forward_rows(config))
    ]
    if config.selector is not None:
        tensors += _conv_tensors(config, config.selector, published, written)
    if config.sandwich_norms:
        scale = spelled(source, f"{published}.layer_scalar", f"{published}.layer_scalar.weight")
        tensors.append(Expected(scale, f"{written}.layer_output_scale.weight", (1,)))
    names = [f"{published}.self_attn.{name}{end}" for name in SINKS for end in ("", ".weight")]
    if find(source, sinks := spelled(source, *names)) is not None:
        tensors.append(Expected(sinks, f"{written}.attn_sinks.weight", (config.n_head,)))
    return tensors


_Row = tuple[str, str, tuple[int, ...], int]


def _attention_rows(config: DrafterConfig) -> list[_Row]:
    n_embd, head_dim = config.n_embd, config.head_dim
    n_q, n_kv = config.n_head * head_dim, config.n_head_kv * head_dim
    pairs = head_dim if config.interleaved_rope else 0
    values: _Row = ("self_attn.v_proj", "attn_v", (n_kv, n_embd), 0)
    return [
        ("input_layernorm", "attn_norm", (n_embd,), 0),
        ("self_attn.q_proj", "attn_q", (n_q, n_embd), pairs),
        ("self_attn.k_proj", "attn_k", (n_kv, n_embd), pairs),
        *(() if config.shared_kv else (values,)),
        ("self_attn.o_proj", "attn_output", (n_embd, n_q), 0),
        ("self_attn.q_norm", "attn_q_norm", (head_dim,), pairs),
        ("self_attn.k_norm", "attn_k_norm", (head_dim,), pairs),
    ]


def _feed_forward_rows(config: DrafterConfig) -> list[_Row]:
    n_embd, n_ff = config.n_embd, config.n_ff
    norms = SANDWICH_NORMS if config.sandwich_norms else QWEN_NORMS
    return [
        *((name, target, (n_embd,), 0) for name, target in norms),
        ("mlp.gate_proj", "ffn_gate", (n_ff, n_embd), 0),
        ("mlp.up_proj", "ffn_up", (n_ff, n_embd), 0),
        ("mlp.down_proj", "ffn_down", (n_embd, n_ff), 0),
    ]


def _conv_tensors(
    config: DrafterConfig, selector: Selector, published: str, written: str
) -> list[Expected]:
    kernel = (2, selector.kernel_size, config.n_embd)  # before and behind the sublayer
    n_projected = 2 * selector.kernel_size * (config.n_embd // selector.group_size)
    tensors = []
    for name, target in (("attention_conv", "attn_conv"), ("mlp_conv", "ffn_conv")):
        projection = f"{published}.{name}.kernel_projection.weight"
        tensors += [
            Expected(f"{published}.{name}.base_kernel", f"{written}.{target}_base", kernel),
            Expected(projection, f"{written}.{target}_proj.weight", (n_projected, config.n_embd)),
        ]
    return tensors


def _selector_tensors(config: DrafterConfig, selector: Selector, source: Source) -> list[Expected]:
    codebook = (config.n_vocab or 0, selector.rank)
    published = "candidate_selector"

    def codebook_name(name: str) -> str:
        return spelled(source, f"{published}.{name}", f"{published}.{name}.weight")

    return [
        Expected(codebook_name("predecessor_codebook"), "selector_predecessor.weight", codebook),
        Expected(codebook_name("successor_codebook"), "selector_successor.weight", codebook),
        Expected(
            f"{published}.hidden_projection.weight",
            "selector_hidden.weight",
            (selector.rank, config.n_embd),
        ),
    ]


def _markov_tensors(config: DrafterConfig, markov: MarkovHead, source: Source) -> list[Expected]:
    n_vocab = config.n_vocab or 0
    n_draft = config.n_vocab_draft or n_vocab
    first, second = MARKOV_FACTORS
    factors = [
        Expected(first, "markov_w1.weight", (n_vocab, markov.rank)),
        Expected(second, "markov_w2.weight", (n_draft, markov.rank)),
    ]
    tensors = factors if markov.trained else []
    return [*tensors, *_confidence_tensors(config, markov, source)]


def _confidence_tensors(
    config: DrafterConfig, markov: MarkovHead, source: Source
) -> list[Expected]:
    if not markov.confidence:
        return []
    weight = spelled(source, *(f"{name}.weight" for name in CONFIDENCE))
    bias = spelled(source, *(f"{name}.bias" for name in CONFIDENCE))
    stored = find(source, weight)
    # A head that looks at the hidden state alone is one with zeros for the token before.
    alone = stored is not None and stored.shape == (1, config.n_embd)
    n_zeros = markov.rank if alone or not markov.trained else 0
    n_inputs = config.n_embd + markov.rank - n_zeros
    tensors = [Expected(weight, "conf_proj.weight", (1, n_inputs), n_zeros=n_zeros)]
    if find(source, bias) is not None:
        tensors.append(Expected(bias, "conf_proj.bias", (1,)))
    return tensors

"""The tensors of a drafter's file, judged by its keys: names, shapes, types, reduced vocabulary.

libllama trusts the types: weights that its graph cannot compute with end the process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .drafter_keys import range_problem
from .gguf_header import GGUFHeader, TensorInfo
from .key_table import KEYS

_F32, _I64 = 0, 27  # ggml's numbers of the types
# What a matrix can be multiplied in: floats and all blocks that ggml has a product for.
_MATRIX_TYPES = frozenset((0, 1, 2, 3, 6, 7, 8, *range(10, 15), *range(16, 24), 29, 30, 34, 35))
_MATRIX_TYPES |= frozenset(range(39, 43))
_ALIGNMENT = 32  # ggml's, for what it computes with
_SELECTOR, _MARKOV, _CONFIDENCE = "selector_hidden.weight", "markov_w1.weight", "conf_proj.weight"

Shape = tuple[int, ...]


def kind_of(header: GGUFHeader) -> str:
    """ "dflash", "dflash2" (it has a selector) or "dspark" (it has a Markov head)."""
    if _SELECTOR in header.tensors:
        return "dflash2"
    return "dspark" if _MARKOV in header.tensors else "dflash"


def has_confidence(header: GGUFHeader) -> bool:
    """Whether a DSpark drafter says how sure it is of each draft."""
    return kind_of(header) == "dspark" and _CONFIDENCE in header.tensors


def tensor_problems(header: GGUFHeader) -> Iterator[str]:
    """What is wrong with the tensors, a line each; the keys have to be right."""
    for tensor in header.tensors.values():
        yield from _type_problems(tensor)
    sizes = _Sizes.of(header)
    shapes = _backbone_shapes(sizes)
    if kind_of(header) == "dflash2":
        problems = list(_selector_problems(header, sizes))
        yield from problems
        shapes |= {} if problems else _selector_shapes(header, sizes)
    if kind_of(header) == "dspark":
        shapes |= _markov_shapes(header, sizes)
    optional = _optional_shapes(sizes)
    yield from _shape_problems(header, shapes, optional)
    yield from _graph_problems(header, sizes, len(header.tensors.keys() & optional))
    yield from _d2t_problems(header, sizes.n_vocab)
    if "d2t" in header.tensors and "output.weight" not in header.tensors:
        yield "tensor output.weight: missing, expected the rows of the reduced vocabulary"


@dataclass(frozen=True)
class _Sizes:
    """What the shapes follow from; ``n_draft`` is the size of the drafter's own vocabulary."""

    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    head: int
    n_features: int
    n_vocab: int
    n_draft: int

    @classmethod
    def of(cls, header: GGUFHeader) -> _Sizes:
        n_head = header.get("dflash.attention.head_count")
        n_embd = header.get("dflash.embedding_length")
        n_vocab = header.length("tokenizer.ggml.tokens")
        d2t = header.tensors.get("d2t")
        return cls(
            n_layer=header.get("dflash.block_count"),
            n_embd=n_embd,
            n_ff=header.get("dflash.feed_forward_length"),
            n_head=n_head,
            n_head_kv=header.get("dflash.attention.head_count_kv", n_head),
            head=header.get("dflash.attention.key_length", n_embd // n_head),
            n_features=header.length("dflash.target_layers"),
            n_vocab=n_vocab,
            n_draft=math.prod(d2t.shape) if d2t else n_vocab,
        )


def _type_problems(tensor: TensorInfo) -> Iterator[str]:
    if tensor.offset % _ALIGNMENT:
        yield f"tensor {tensor.name}: at byte {tensor.offset}, expected a multiple of {_ALIGNMENT}"
    if tensor.name == "d2t":
        return  # has a problem of its own
    # A projection to one number may be stored as a vector.
    is_vector = len(tensor.shape) < 2 and tensor.name != _CONFIDENCE
    if is_vector or not tensor.name.endswith(".weight"):
        if tensor.type != _F32:
            yield f"tensor {tensor.name}: found ggml's type {tensor.type}, expected F32"
    elif tensor.type not in _MATRIX_TYPES:
        yield f"tensor {tensor.name}: found ggml's type {tensor.type}, expected one for matrices"


def _shape_problems(
    header: GGUFHeader, required: dict[str, Shape], optional: dict[str, Shape]
) -> Iterator[str]:
    for name, shape in (required | optional).items():
        found = header.tensors.get(name)
        if found is None and name in required:
            yield f"tensor {name}: missing, expected shape {list(shape)}"
        elif found is not None and _trimmed(found.shape) != _trimmed(shape):
            yield f"tensor {name}: found shape {list(found.shape)}, expected {list(shape)}"


def _trimmed(shape: Shape) -> Shape:
    # To libllama every tensor has four dimensions.
    return _trimmed(shape[:-1]) if shape and shape[-1] == 1 else shape


def _backbone_shapes(sizes: _Sizes) -> dict[str, Shape]:
    n_embd, head = sizes.n_embd, sizes.head
    layer = {
        "attn_norm": (n_embd,),
        "attn_q": (n_embd, head * sizes.n_head),
        "attn_k": (n_embd, head * sizes.n_head_kv),
        "attn_output": (head * sizes.n_head, n_embd),
        "attn_q_norm": (head,),
        "attn_k_norm": (head,),
        "ffn_norm": (n_embd,),
        "ffn_gate": (n_embd, sizes.n_ff),
        "ffn_up": (n_embd, sizes.n_ff),
        "ffn_down": (sizes.n_ff, n_embd),
    }
    return {
        "fc.weight": (n_embd * sizes.n_features, n_embd),
        "enc.output_norm.weight": (n_embd,),
        "output_norm.weight": (n_embd,),
        **_in_every_layer(sizes, {f"{name}.weight": shape for name, shape in layer.items()}),
    }


def _in_every_layer(sizes: _Sizes, shapes: dict[str, Shape]) -> dict[str, Shape]:
    return {
        f"blk.{i}.{name}": shape for i in range(sizes.n_layer) for name, shape in shapes.items()
    }


def _optional_shapes(sizes: _Sizes) -> dict[str, Shape]:
    layer: dict[str, Shape] = {
        "attn_v.weight": (sizes.n_embd, sizes.head * sizes.n_head_kv),
        "attn_sinks.weight": (sizes.n_head,),
        "post_attention_norm.weight": (sizes.n_embd,),
        "post_ffw_norm.weight": (sizes.n_embd,),
        "layer_output_scale.weight": (1,),
    }
    return {
        "token_embd.weight": (sizes.n_embd, sizes.n_vocab),
        "output.weight": (sizes.n_embd, sizes.n_draft),
        "rope_freqs.weight": (sizes.head // 2,),
        "conf_proj.bias": (1,),
        **_in_every_layer(sizes, layer),
    }


def _markov_shapes(header: GGUFHeader, sizes: _Sizes) -> dict[str, Shape]:
    first = header.tensors[_MARKOV].shape
    rank = first[0] if first else 1
    shapes: dict[str, Shape] = {
        _MARKOV: (rank, sizes.n_vocab),
        "markov_w2.weight": (rank, sizes.n_draft),
    }
    return shapes | ({_CONFIDENCE: (sizes.n_embd + rank, 1)} if has_confidence(header) else {})


def _selector_problems(header: GGUFHeader, sizes: _Sizes) -> Iterator[str]:
    highest = min(math.isqrt(sizes.n_embd), sizes.n_vocab)
    ranges = {
        "conv_kernel_size": sizes.n_embd,
        "conv_group_size": sizes.n_embd,
        "selector_rank": sizes.n_vocab,
        "selector_top_k": highest - (highest * (highest + 1) > sizes.n_embd),
    }
    for name, high in ranges.items():
        yield from range_problem(header, KEYS[name].key, 1, high)
    group = header.get("dflash.conv_group_size")
    if isinstance(group, int) and group > 0 and sizes.n_embd % group:
        yield f"dflash.conv_group_size: found {group}, expected a divisor of {sizes.n_embd}"


def _selector_shapes(header: GGUFHeader, sizes: _Sizes) -> dict[str, Shape]:
    n_embd, rank = sizes.n_embd, header.get("dflash.selector_rank")
    kernel = header.get("dflash.conv_kernel_size")
    projected = 2 * kernel * (n_embd // header.get("dflash.conv_group_size"))
    layer: dict[str, Shape] = {
        f"{part}_conv_{name}": shape
        for part in ("attn", "ffn")
        for name, shape in (("base", (n_embd, kernel, 2)), ("proj.weight", (n_embd, projected)))
    }
    return {
        "selector_predecessor.weight": (rank, sizes.n_vocab),
        "selector_successor.weight": (rank, sizes.n_vocab),
        _SELECTOR: (n_embd, rank),
        **_in_every_layer(sizes, layer),
    }


# libllama gives a graph room by the file's tensors, and asserts when it is full. The counts are
# measured ones of llama-cpp-python 0.3.36, a little above: nodes a file, a layer, and so on.
def _graph_problems(header: GGUFHeader, sizes: _Sizes, n_optional: int) -> Iterator[str]:
    kind = kind_of(header)
    if kind == "dflash":
        return  # the same in every layer: always fits
    n_nodes = 105 + 52 * sizes.n_layer + 2 * n_optional
    if kind == "dflash2":
        key, room = "dflash.conv_kernel_size", max(1024, 12 * len(header.tensors))
        n_nodes += sizes.n_layer * 4 * (6 + 8 * _number(header, key))
    else:
        key, room = "dflash.block_size", max(1024, 8 * len(header.tensors))
        a_position = 7 + 7 * has_confidence(header) + 6 * ("d2t" in header.tensors)
        n_nodes += a_position * header.get(key)
    if n_nodes > room:
        yield f"{key}: {header.get(key)} needs a graph of {n_nodes} nodes, libllama gives it {room}"


def _number(header: GGUFHeader, key: str) -> int:
    value = header.get(key)
    return value if isinstance(value, int) else 0


# ggml scatters the draft's logits by these indices without looking.
def _d2t_problems(header: GGUFHeader, n_vocab: int) -> Iterator[str]:
    if "d2t" not in header.tensors:
        return
    ids = header.i64("d2t")
    if ids is None or len(header.tensors["d2t"].shape) != 1:
        yield "tensor d2t: expected a list of token ids, of type I64"
    elif ids.size == 0 or int(ids.min()) < 0 or int(ids.max()) >= n_vocab:
        yield f"tensor d2t: expected token ids from 0 to {n_vocab - 1}"
    elif len(np.unique(ids)) != ids.size:
        yield "tensor d2t: expected every token once"

"""The keys of a drafter's file: what libllama would end the process on, or never come back from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from gguf import GGUFValueType

from .gguf_header import GGUFHeader
from .key_table import FOREIGN_KEYS, KEYS, KeyRow
from .model_header import TEMPLATE_KEY

_TOKENS = "tokenizer.ggml.tokens"
_TEXTS = ("general.name", "tokenizer.ggml.pre", TEMPLATE_KEY)


def key_problems(header: GGUFHeader) -> Iterator[str]:
    """What is wrong with the keys of a file of architecture ``dflash``, a line each."""
    for row in (*KEYS.values(), *FOREIGN_KEYS.values()):
        if row.required or row.key in header:
            yield from _row_problems(header, row)
    yield from _text_problems(header)
    yield from _head_problems(header)
    yield from _rope_problems(header)
    yield from _window_problems(header)
    yield from _vocabulary_problems(header)
    yield from _target_layer_problems(header)
    if "dflash.hyper_connection.count" in header:
        yield "a DeepSeek-V4 drafter (hyper connections): not supported"


def range_problem(header: GGUFHeader, key: str, low: int, high: int) -> Iterator[str]:
    """A line where a key is missing, or holds anything but a whole number in ``low..high``."""
    value = header.get(key)
    if not _whole(value) or not low <= value <= high:
        expected = "0 or none" if low == high == 0 else f"a number from {low} to {high}"
        yield f"{key}: found {_show(value)}, expected {expected}"


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _row_problems(header: GGUFHeader, row: KeyRow) -> Iterator[str]:
    """What is wrong with a key by its row alone; whole numbers without a range come later."""
    if row.type == GGUFValueType.UINT32:
        if row.between is not None:
            yield from range_problem(header, row.key, *row.between)
    elif row.type != GGUFValueType.ARRAY:
        value = header.get(row.key)
        if not _is_of_type(value, row):
            yield f"{row.key}: found {_show(value)}, expected {_expected(row)}"


def _is_of_type(value: Any, row: KeyRow) -> bool:
    if row.type == GGUFValueType.BOOL:
        return isinstance(value, bool)
    if row.type == GGUFValueType.STRING:
        return isinstance(value, str) and (not row.choices or value in row.choices)
    if not isinstance(value, float) or not math.isfinite(value):
        return False
    return row.between is None or row.between[0] <= value < row.between[1]


def _expected(row: KeyRow) -> str:
    if row.type == GGUFValueType.BOOL:
        return "true or false"
    if row.type == GGUFValueType.STRING:
        return f"one of {', '.join(row.choices)}" if row.choices else "a text"
    if row.between is not None:
        return "a number from {} to {}".format(*row.between)
    return "a finite number, stored as a float"


def _text_problems(header: GGUFHeader) -> Iterator[str]:
    for key in _TEXTS:
        if not isinstance(header.get(key, ""), str):
            yield f"{key}: found {_show(header.get(key))}, expected a text"


def _head_problems(header: GGUFHeader) -> Iterator[str]:
    n_embd = header.get("dflash.embedding_length")
    out = header.get("dflash.embedding_length_out", n_embd)
    if out != n_embd:
        yield f"dflash.embedding_length_out: found {_show(out)}, expected {_show(n_embd)}"
    n_head = header.get("dflash.attention.head_count")
    n_head_kv = header.get("dflash.attention.head_count_kv", n_head)
    if _whole(n_head) and n_head > 0:
        fits = _whole(n_head_kv) and n_head_kv > 0 and n_head % n_head_kv == 0
        if not fits:
            key = "dflash.attention.head_count_kv"
            yield f"{key}: found {_show(n_head_kv)}, expected a divisor of {n_head}"
    length = header.get("dflash.attention.key_length", 2)
    keys = [
        f"dflash.attention.{kind}_length{end}" for end in ("", "_swa") for kind in ("key", "value")
    ]
    found = [header.get(key, length) for key in keys]
    if any(size != length for size in found) or not _whole(length) or length < 2 or length % 2:
        yield (
            f"dflash.attention.key_length and value_length: found {_show(length)} and "
            f"{', '.join(map(_show, found[1:]))}, expected the same even number"
        )


def _rope_problems(header: GGUFHeader) -> Iterator[str]:
    n_embd = header.get("dflash.embedding_length")
    n_head = header.get("dflash.attention.head_count")
    if not _whole(n_embd) or not _whole(n_head) or n_head < 1:
        return  # reported already
    head = header.get("dflash.attention.key_length", n_embd // n_head)
    if not _whole(head):
        return
    for key in ("dflash.rope.dimension_count", "dflash.rope.dimension_count_swa"):
        n_rot = header.get(key, head)
        if not _whole(n_rot) or not 2 <= n_rot <= head or n_rot % 2:
            yield f"{key}: found {_show(n_rot)}, expected an even number from 2 to {head}"
    sections = header.get("dflash.rope.dimension_sections", [0] * 4)
    if not _are_sections(sections, head):
        yield (
            f"dflash.rope.dimension_sections: found {_show(sections)}, expected four numbers that "
            f"share out {head // 2} pairs, as [{head // 2}, 0, 0, 0]"
        )


def _are_sections(value: Any, head: int) -> bool:
    if not isinstance(value, list) or len(value) != 4 or not all(map(_whole, value)):
        return False
    # libllama divides by the sum as soon as one of them is not 0.
    return min(value) >= 0 and sum(value) <= head // 2 and (value[0] > 0 or not any(value))


def _window_problems(header: GGUFHeader) -> Iterator[str]:
    if not header.get("dflash.attention.sliding_window"):
        return
    key, n_layer = "dflash.attention.sliding_window_pattern", header.get("dflash.block_count")
    pattern = header.get(key)
    good = isinstance(pattern, list) and all(item in (0, 1) for item in pattern)
    if not good or len(pattern) != n_layer or not any(pattern):
        yield (
            f"{key}: found {_show(pattern)}, expected one flag a layer, {_show(n_layer)} in all, "
            "and at least one of them set"
        )


def _vocabulary_problems(header: GGUFHeader) -> Iterator[str]:
    tokens = header.get(_TOKENS)
    if not isinstance(tokens, list) or not tokens:
        yield f"{_TOKENS}: missing; convert the drafter again with --verifier"
        return
    if not isinstance(tokens[0], bytes):
        yield f"{_TOKENS}: found numbers, expected texts"
        return
    named = [token for token in tokens if token]
    if len(set(named)) != len(named):
        yield f"{_TOKENS}: {len(named) - len(set(named))} tokens are there twice"
    mask = header.get("tokenizer.ggml.mask_token_id")
    if not _whole(mask) or not 0 <= mask < len(tokens):
        yield (
            f"tokenizer.ggml.mask_token_id: found {_show(mask)}, expected a token below "
            f"{len(tokens)}; convert the drafter again with dflash-convert"
        )
    model = header.get("tokenizer.ggml.model")
    if not isinstance(model, str) or model in ("none", "no_vocab"):
        yield f"tokenizer.ggml.model: found {_show(model)}, expected the verifier's tokenizer"


def _target_layer_problems(header: GGUFHeader) -> Iterator[str]:
    layers = header.get("dflash.target_layers")
    if not isinstance(layers, list) or not layers:
        yield f"dflash.target_layers: found {_show(layers)}, expected the verifier's layers to read"
    elif any(not _whole(layer) or layer < 0 for layer in layers):
        yield f"dflash.target_layers: found {_show(layers)}, expected layers from 0 on"

"""What a drafter's GGUF holds, and what is wrong with it: ``inspect()``."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dflash_local.errors import ModelError
from dflash_local.files.drafter_file import drafter_problems
from dflash_local.files.gguf_header import GGUFHeader
from dflash_local.files.key_table import KEYS
from dflash_local.files.layer_ids import published_ids
from dflash_local.files.model_header import chat_template

from ..migrating.dialects import ForkDrafter, as_upstream, is_drafter
from ..reading.gguf_tensors import type_name
from ..reading.paths import expanded
from ..writing.keys import MASK_TOKEN_KEY

PROVENANCE_PREFIXES = ("general.", "dflash_local.")
BASE_MODEL_PREFIX = "general.base_model."


@dataclass(frozen=True)
class TensorSummary:
    """A tensor: its shape in torch's order, its type's name, its bytes (None: a fork's type)."""

    name: str
    shape: tuple[int, ...]
    type: str
    n_bytes: int | None


@dataclass(frozen=True)
class DrafterFile:
    """A drafter's GGUF, upstream's or a fork's. What the file does not say is None.

    Attributes:
        architecture: "dflash", or a fork's name for it.
        kind: "dflash", "dflash2" (convolutions and selector) or "dspark" (Markov head).
        n_bytes: size of the file.
        block_size: tokens of the trained block, the anchor included.
        target_layers: the verifier's layers whose *inputs* it reads.
        mask_token: id of the token that stands for those to be drafted; ``mask_text`` its text.
        causal: attention inside the block; None is llama.cpp's rule, bidirectional.
        sliding_window: positions that ``sliding_layers`` see back; these by number, from 0.
        rope: ``dflash.rope.*`` keys without that prefix; "freqs" is True with ``rope_freqs``.
        n_vocab: tokens of the tokenizer; 0 where there is none.
        n_vocab_draft: tokens it can propose.
        sample_from_anchor: DSpark: the anchor's row predicts too.
        confidence: DSpark: there is a confidence head.
        verifier: what it was made for, as the file tells; empty where it does not.
        chat_template_sha256: of the chat template that came with the verifier.
        provenance: name, licence, origin: ``general.*`` and ``dflash_local.*`` keys.
        tensors: in the order of the file, under the file's names.
        problems: why libllama or dflash-local would refuse it or draft wrongly; empty is good.
    """

    path: Path
    architecture: str
    kind: str
    n_bytes: int
    block_size: int | None
    n_layer: int | None
    n_embd: int | None
    n_ff: int | None
    n_head: int | None
    n_head_kv: int | None
    head_dim: int | None
    n_ctx: int | None
    target_layers: tuple[int, ...] | None
    mask_token: int | None
    mask_text: str | None
    causal: bool | None
    sliding_window: int | None
    sliding_layers: tuple[int, ...]
    rope: dict[str, Any]
    n_vocab: int
    n_vocab_draft: int | None
    sample_from_anchor: bool | None
    confidence: bool | None
    verifier: dict[str, Any]
    chat_template_sha256: str | None
    provenance: dict[str, Any]
    tensors: tuple[TensorSummary, ...]
    problems: tuple[str, ...]

    @property
    def published_layer_ids(self) -> tuple[int, ...] | None:
        """The same layers as trainers count them: those whose outputs are read."""
        layers = self.target_layers
        return None if layers is None else tuple(published_ids(layers))

    @property
    def tensor_types(self) -> dict[str, int]:
        """Types, the most frequent first, and how many tensors have them."""
        return dict(Counter(tensor.type for tensor in self.tensors).most_common())


def inspect(path: str | os.PathLike[str]) -> DrafterFile:
    """Describe a drafter's GGUF; nothing but its header is read.

    Args:
        path: a GGUF of architecture ``dflash``, or of a fork's (``dflash-draft`` and others).

    Raises:
        ModelError: no such file, no GGUF, damaged, or the GGUF of something else. A drafter that
            cannot be used is described, with its ``problems``.
    """
    header = GGUFHeader(expanded(path))
    architecture = header.get("general.architecture")
    if not is_drafter(architecture):
        raise ModelError(
            f"{header.path}: found architecture {architecture!r}, expected a DFlash drafter's GGUF "
            "(dflash, or a fork's dflash-draft)"
        )
    drafter = as_upstream(header)
    return DrafterFile(
        path=header.path,
        architecture=drafter.architecture,
        n_bytes=header.path.stat().st_size,
        **_sizes(drafter),
        **_attention(drafter),
        **_vocabulary(drafter),
        **_heads(drafter),
        **_origin(header),
        tensors=tuple(_tensors(header)),
        problems=tuple(_problems(drafter)),
    )


def _sizes(drafter: ForkDrafter) -> dict[str, Any]:
    names = {
        "n_layer": "block_count",
        "n_embd": "embedding_length",
        "n_ff": "feed_forward_length",
        "n_head": "attention.head_count",
        "n_head_kv": "attention.head_count_kv",
        "head_dim": "attention.key_length",
        "n_ctx": "context_length",
        "block_size": "block_size",
        "sliding_window": "attention.sliding_window",
    }
    return {name: drafter.integer(f"dflash.{key}") for name, key in names.items()}


def _attention(drafter: ForkDrafter) -> dict[str, Any]:
    causal = drafter.get("dflash.attention.causal")
    pattern = drafter.get("dflash.attention.sliding_window_pattern")
    slides = enumerate(pattern if isinstance(pattern, list) else [])
    prefix = "dflash.rope."
    rope = {key.removeprefix(prefix): drafter.get(key) for key in drafter.keys if prefix in key}
    if "rope_freqs.weight" in drafter.tensors:
        rope["freqs"] = True
    return {
        "target_layers": drafter.target_layers,
        "causal": causal if isinstance(causal, bool) else None,
        "sliding_layers": tuple(layer for layer, flag in slides if flag),
        "rope": rope,
    }


def _vocabulary(drafter: ForkDrafter) -> dict[str, Any]:
    tokens = drafter.tokens
    mask = drafter.integer(MASK_TOKEN_KEY)
    text = tokens[mask] if mask is not None and 0 <= mask < len(tokens) else None
    d2t = drafter.tensors.get("d2t")
    n_draft = math.prod(d2t.shape) if d2t is not None else len(tokens)
    return {
        "mask_token": mask,
        "mask_text": text.decode("utf-8", "replace") if text is not None else None,
        "n_vocab": len(tokens),
        "n_vocab_draft": n_draft or None,
    }


def _heads(drafter: ForkDrafter) -> dict[str, Any]:
    if "markov_w1.weight" not in drafter.tensors:
        kind = "dflash2" if "selector_hidden.weight" in drafter.tensors else "dflash"
        return {"kind": kind, "sample_from_anchor": None, "confidence": None}
    row = KEYS["sample_from_anchor"]
    anchor = drafter.get(row.key, row.default)
    return {
        "kind": "dspark",
        "sample_from_anchor": bool(anchor),
        "confidence": "conf_proj.weight" in drafter.tensors,
    }


def _origin(header: GGUFHeader) -> dict[str, Any]:
    template = chat_template(header)
    digest = None if template is None else hashlib.sha256(template.encode()).hexdigest()
    provenance = {key: _plain(header.get(key)) for key in header if _tells_origin(key)}
    return {
        "chat_template_sha256": digest,
        "verifier": {key: value for key, value in provenance.items() if _names_verifier(key)},
        "provenance": {key: v for key, v in provenance.items() if not _names_verifier(key)},
    }


def _tells_origin(key: str) -> bool:
    return key.startswith(PROVENANCE_PREFIXES) and key != "general.architecture"


def _names_verifier(key: str) -> bool:
    return key.startswith((BASE_MODEL_PREFIX, "dflash_local.verifier"))


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _tensors(header: GGUFHeader) -> Iterator[TensorSummary]:
    for tensor in header.tensors.values():
        yield TensorSummary(tensor.name, tensor.shape[::-1], type_name(tensor), tensor.n_bytes)


def _problems(drafter: ForkDrafter) -> Iterator[str]:
    way_out = f"dflash-convert migrate {drafter.header.path} -o NEW.gguf"
    if drafter.is_dated:
        yield f"written before llama.cpp settled the names of keys and tensors: {way_out}"
    elif drafter.is_upstream:
        unknown = [f"tensor {name}: unknown to libllama" for name in drafter.unknown_tensors]
        yield from drafter_problems(drafter.header) or unknown
    else:
        yield (
            f"architecture {drafter.architecture!r} is a fork's dialect, which neither llama.cpp "
            f"nor dflash-local reads: {way_out}"
        )
        yield from (f"key {name}: unknown to upstream" for name in drafter.unknown_keys)
        yield from (f"tensor {name}: unknown to upstream" for name in drafter.unknown_tensors)
    yield from drafter.problems

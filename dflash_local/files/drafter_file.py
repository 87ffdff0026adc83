"""A drafter's GGUF file: what the loop has to know of it, and whether libllama may load it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dflash_local.errors import ModelError

from .drafter_keys import key_problems
from .drafter_tensors import has_confidence, kind_of, tensor_problems
from .gguf_header import GGUFHeader
from .key_table import ARCHITECTURE, KEYS
from .model_header import chat_template
from .token_lists import TokenList, token_types


@dataclass(frozen=True)
class DrafterInfo:
    """A drafter as its file describes it.

    Attributes:
        kind: "dflash", "dflash2" (selector) or "dspark" (Markov head).
        block_size: tokens of the trained block, anchor included.
        mask_token: stands for the tokens to be drafted.
        target_layers: verifier layers whose *inputs* are the features, in order.
        causal: attention within the block.
        sample_from_anchor: DSpark only: the anchor's row predicts too.
        has_confidence: DSpark only: a confidence head is there.
        tokens: the vocabulary, which has to be the verifier's.
        chat_template: the one that came with the verifier it was made for.
        token_types: GGUF's numbers; empty where the file has none.
    """

    path: Path
    kind: str
    block_size: int
    mask_token: int
    target_layers: tuple[int, ...]
    n_embd: int
    n_layer: int
    causal: bool
    sample_from_anchor: bool
    has_confidence: bool
    tokens: Sequence[bytes] = field(repr=False)
    chat_template: str | None = field(default=None, repr=False)
    token_types: Sequence[int] = field(default=(), repr=False)

    @property
    def vocabulary(self) -> TokenList:
        """Its tokens, to be compared with the verifier's."""
        return TokenList(self.tokens, self.token_types)

    @property
    def max_width(self) -> int:
        """Drafts that a block gives at most."""
        return self.block_size - (0 if self.sample_from_anchor else 1)


def read_drafter(path: str | os.PathLike[str]) -> DrafterInfo:
    """Reads and checks a drafter's file.

    Raises:
        ModelError: lists everything that is wrong with the file.
    """
    header = GGUFHeader(path)
    architecture = header.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise ModelError(
            f"{header.path}: architecture {architecture!r}, expected 'dflash': this is no drafter. "
            "Convert a trained one with dflash-convert"
        )
    problems = drafter_problems(header)
    if problems:
        lines = "".join(f"\n  - {problem}" for problem in problems)
        raise ModelError(f"{header.path}: not a usable DFlash drafter:{lines}")
    return _describe(header)


def drafter_problems(header: GGUFHeader) -> list[str]:
    """Everything that is wrong with a file of architecture ``dflash``, a line each."""
    # The tensors are judged by the keys, so these have to be right first.
    return [*key_problems(header)] or [*tensor_problems(header)]


def _value(header: GGUFHeader, name: str) -> Any:
    """A key's value, or what libllama takes where it is absent."""
    row = KEYS[name]
    return header.get(row.key, row.default)


def _describe(header: GGUFHeader) -> DrafterInfo:
    kind = kind_of(header)
    return DrafterInfo(
        path=header.path,
        kind=kind,
        block_size=header.get("dflash.block_size"),
        mask_token=header.get("tokenizer.ggml.mask_token_id"),
        target_layers=tuple(header.get("dflash.target_layers")),
        n_embd=header.get("dflash.embedding_length"),
        n_layer=header.get("dflash.block_count"),
        causal=_value(header, "attention.causal"),
        sample_from_anchor=kind == "dspark" and _value(header, "sample_from_anchor"),
        has_confidence=has_confidence(header),
        tokens=header.get("tokenizer.ggml.tokens"),
        chat_template=chat_template(header),
        token_types=token_types(header),
    )

"""What a drafter's file takes from its verifier's GGUF: the tokenizer and a few sizes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dflash_local.errors import ModelError
from dflash_local.files.gguf_header import GGUFHeader
from dflash_local.files.gguf_parts import SPLIT_NAME, parts_of

from ..reading.paths import expanded

DRAFTER_ARCHITECTURES = ("dflash", "eagle3")


@dataclass(frozen=True)
class Verifier:
    """The verifier, as its file describes it.

    Attributes:
        files: the GGUF and, where it is split, all its parts.
        n_layer: layers that take part in decoding (those for multi-token prediction do not).
        n_vocab: tokens of the tokenizer.
        n_rows: rows of ``token_embd``; `n_vocab` where the tensor's part is not at hand.
        has_head: it has an ``output.weight`` of its own; None where that is unknown.
        mrope: it uses a multi-axis rotary embedding.
        tokenizer: every ``tokenizer.*`` key with its value as stored: type, then bytes.
    """

    files: tuple[Path, ...]
    architecture: str
    name: str | None
    organization: str | None
    size_label: str | None
    n_embd: int
    n_layer: int
    n_vocab: int
    n_rows: int
    has_head: bool | None
    mrope: bool
    tokenizer: Mapping[str, bytes]

    @property
    def path(self) -> Path:
        """The file that holds the tokenizer."""
        return self.files[0]


def read_verifier(path: str | os.PathLike[str]) -> Verifier:
    """Read a verifier's GGUF; of a split one, any part may be named.

    Raises:
        ModelError: no such file, no GGUF, damaged, or not a language model.
    """
    files = parts_of(expanded(path).absolute())
    headers = [GGUFHeader(file) for file in files]
    header = headers[0]
    architecture = _text(header, "general.architecture") or "unknown"
    _check_kind(header, architecture)
    tensors = {name: tensor for part in headers for name, tensor in part.tensors.items()}
    n_layer = _integer(header, f"{architecture}.block_count")
    n_layer -= _integer(header, f"{architecture}.nextn_predict_layers", 0)
    n_vocab = header.length("tokenizer.ggml.tokens")
    embedding = tensors.get("token_embd.weight")
    return Verifier(
        files=tuple(files),
        architecture=architecture,
        name=_text(header, "general.name"),
        organization=_text(header, "general.organization"),
        size_label=_text(header, "general.size_label"),
        n_embd=_integer(header, f"{architecture}.embedding_length"),
        n_layer=n_layer,
        n_vocab=n_vocab,
        n_rows=embedding.shape[-1] if embedding and embedding.shape else n_vocab,
        has_head="output.weight" in tensors if embedding else None,
        mrope=f"{architecture}.rope.dimension_sections" in header,
        tokenizer={key: header.raw(key) for key in header if key.startswith("tokenizer.")},
    )


def is_later_part(path: Path) -> bool:
    """Whether a file name says second or later part of a split GGUF."""
    split = SPLIT_NAME.fullmatch(path.name)
    return split is not None and int(split[2]) > 1


def _check_kind(header: GGUFHeader, architecture: str) -> None:
    if architecture in DRAFTER_ARCHITECTURES:
        raise ModelError(
            f"{header.path} is itself a drafter ({architecture}); expected its verifier"
        )
    tokens = header.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens or not isinstance(tokens[0], bytes):
        raise ModelError(
            f"{header.path} (architecture {architecture!r}) has no tokenizer; expected the GGUF "
            "of a language model, of a split one its first part"
        )


def _text(header: GGUFHeader, key: str) -> str | None:
    value = header.get(key)
    return value if isinstance(value, str) else None


def _integer(header: GGUFHeader, key: str, default: int | None = None) -> int:
    value = header.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 31:
        raise ModelError(f"{header.path} has no number `{key}`; expected a complete verifier GGUF")
    return value

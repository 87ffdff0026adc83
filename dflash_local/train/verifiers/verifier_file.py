"""What training takes from the verifier's GGUF: sizes, embedding, head and layers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from dflash_local.errors import ModelError
from dflash_local.files.gguf_header import GGUFHeader
from dflash_local.files.gguf_parts import parts_of
from dflash_local.train.conversations import Conversation

from .verifier import Floats, Sizes

_UNWRITTEN = (3, 5)  # token types CONTROL and UNUSED
#: Their rows of q and k are stored for rotating neighbours; a drafter rotates halves.
INTERLEAVED = frozenset(
    (
        *("arcee", "bailingmoe3", "cohere2", "command-r", "deepseek2", "deepseek4", "ernie4_5"),
        *("ernie4_5-moe", "glm4", "granite", "granitemoe", "llama", "mistral3", "muse-glimmer"),
        *("nanbeige", "olmo", "smollm3"),
    )
)


class VerifierFile:
    """Weights and sizes of a verifier, in one file or in parts.

    Raises:
        ModelError: no GGUF, or none of a language model.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        headers = [GGUFHeader(part) for part in parts_of(path)]
        self._header = headers[0]
        self._places = {name: header for header in headers for name in header.tensors}
        self.sizes = self._sizes()

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def read(self, name: str) -> Floats:
        """A tensor as F32, rows first.

        Raises:
            ModelError: it is not there, or in a type that Python cannot read.
        """
        header = self._places.get(name)
        if header is None:
            raise ModelError(f"{self.path}: no tensor {name}")
        tensor = header.tensors[name]
        kind = gguf.GGMLQuantizationType(tensor.type)
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        shape = tuple(reversed(tensor.shape))
        n_bytes = int(np.prod(shape)) // block * block_bytes
        raw = np.memmap(header.path, np.uint8, "r", tensor.offset, (n_bytes,))
        try:
            values = gguf.quants.dequantize(raw.reshape(*shape[:-1], -1), kind)
        except NotImplementedError as error:
            raise ModelError(f"{self.path}: {name} is stored as {kind.name}: {error}") from error
        return np.array(values, np.float32).reshape(shape)  # a copy: the file is read-only

    @property
    def embedding(self) -> Floats:
        """[n_vocab, n_embd]"""
        return self.read("token_embd.weight")

    @property
    def head(self) -> Floats:
        """[n_vocab, n_embd]; the embedding where the two are tied."""
        return self.read("output.weight") if "output.weight" in self else self.embedding

    @property
    def output_norm(self) -> Floats:
        """[n_embd]"""
        return self.read("output_norm.weight")

    def has_part(self, layer: int, name: str) -> bool:
        """Whether a layer has it; see ``Weights``."""
        return f"blk.{layer}.{name}.weight" in self

    def part(self, layer: int, name: str) -> Floats:
        """A tensor of a layer; rows of q and k as a rotation of halves wants them."""
        rows = self.read(f"blk.{layer}.{name}.weight")
        n_heads = {"attn_q": self.sizes.n_head, "attn_k": self.sizes.n_head_kv}.get(name)
        if n_heads is None or self.sizes.architecture not in INTERLEAVED:
            return rows
        pairs = rows.reshape(n_heads, -1, 2, rows.shape[-1])
        return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)

    def mask_token(self, texts: Iterable[Conversation]) -> int:
        """A token to stand for what is to be drafted: the file's own mask, else a control token
        that no text holds.

        Raises:
            ModelError: there is none.
        """
        own = self._header.get("tokenizer.ggml.mask_token_id")
        if isinstance(own, int):
            return own
        used = {token for text in texts for token in text.tokens}
        used |= {
            self._header.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "eot")
        }
        kinds = self._header.get("tokenizer.ggml.token_type") or []
        free = [i for i, kind in enumerate(kinds) if kind in _UNWRITTEN and i not in used]
        if not free:
            raise ModelError(f"{self.path} has no control token left over: name one (--mask-token)")
        return free[0]

    def _sizes(self) -> Sizes:
        architecture = str(self._header.get("general.architecture"))

        def key(name: str, default: Any = None) -> Any:
            value = self._header.get(f"{architecture}.{name}", default)
            value = max(value) if isinstance(value, list) and value else value
            if value is None:
                raise ModelError(f"{self.path}: no key {architecture}.{name}; expected a verifier")
            return value

        n_embd, n_head = key("embedding_length"), key("attention.head_count")
        return Sizes(
            architecture=architecture,
            n_layer=key("block_count") - key("nextn_predict_layers", 0),
            n_embd=n_embd,
            n_ff=key("feed_forward_length", 0) or 3 * n_embd,
            n_head=n_head,
            n_head_kv=key("attention.head_count_kv", n_head),
            head_dim=key("attention.key_length", n_embd // n_head),
            n_ctx=key("context_length"),
            n_vocab=self._header.length("tokenizer.ggml.tokens"),
            rms_eps=key("attention.layer_norm_rms_epsilon", 1e-6),
            rope_theta=float(key("rope.freq_base", 10000.0)),
        )

"""The GGUF dialects of llama.cpp's forks: what a file says, under upstream's names.

Known are ``dflash-draft`` (buun-llama.cpp, beellama.cpp, ik_llama.cpp), ``<family>-dflash-draft``
(Lucebox), and ``dflash`` as it was while upstream still discussed it. They nest their keys, number
layers by their outputs, keep the mask token among them, and leave the tokenizer out or in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dflash_local.files.gguf_header import GGUFHeader, TensorInfo
from dflash_local.files.key_table import ARCHITECTURE, KEYS
from dflash_local.files.layer_ids import layer_inputs

from ..writing.keys import MASK_TOKEN_KEY

FORK_ARCHITECTURE = re.compile(r"(?:[\w.]+-)*dflash-draft")
PUBLISHED_LAYERS_KEY = "dflash.target_layer_ids"
TARGET_LAYERS_KEY = KEYS["target_layers"].key

_RENAMED_KEYS = {
    "mask_token_id": MASK_TOKEN_KEY,
    "target_layer_ids": PUBLISHED_LAYERS_KEY,
    "logit_softcap": KEYS["final_logit_softcapping"].key,
    "sliding_window": KEYS["attention.sliding_window"].key,
}
# Said twice, in other words: nothing is lost without them.
_REDUNDANT_KEYS = frozenset(
    """
    n_target_features n_target_layers target_hidden_size vocab_size tie_word_embeddings
    target_checkpoint_sha256 backbone_rotary_base laguna
    """.split()  # noqa: SIM905 - readable as a table
)
_RENAMED_TENSORS = {
    "dflash_fc.weight": "fc.weight",
    "dflash.fc.weight": "fc.weight",
    "dflash_hidden_norm.weight": "enc.output_norm.weight",
    "dflash.hidden_norm.weight": "enc.output_norm.weight",
    "hidden_norm.weight": "enc.output_norm.weight",
}
_UPSTREAM_TENSOR = re.compile(
    r"(?:fc|enc\.output_norm|output_norm|token_embd|output|rope_freqs|markov_w[12]|conf_proj"
    r"|selector_(?:predecessor|successor|hidden)"
    r"|blk\.\d+\.(?:attn_(?:norm|q|k|v|output|q_norm|k_norm|sinks|conv_proj)|post_attention_norm"
    r"|ffn_(?:norm|gate|up|down|conv_proj)|post_ffw_norm|layer_output_scale))\.weight"
    r"|(?:fc|markov_w2)\.scale|conf_proj\.bias|d2t|blk\.\d+\.(?:attn|ffn)_conv_base"
)


@dataclass(frozen=True)
class ForkDrafter:
    """A drafter's GGUF under upstream's names, whatever its dialect.

    Attributes:
        architecture: as the file has it.
        keys: upstream's name of a key, and the file's.
        tensors: by upstream's names.
        unknown_keys, unknown_tensors: what upstream has no name for, as the file names it.
        problems: what the file says twice, and differently.
    """

    header: GGUFHeader
    architecture: str
    keys: Mapping[str, str]
    tensors: Mapping[str, TensorInfo]
    unknown_keys: tuple[str, ...]
    unknown_tensors: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def is_upstream(self) -> bool:
        """Whether the architecture is upstream's."""
        return self.architecture == ARCHITECTURE

    @property
    def is_dated(self) -> bool:
        """Whether upstream's architecture comes with names that upstream has given up."""
        keys = any(name != ours for name, ours in self.keys.items())
        return self.is_upstream and (
            keys or any(name != tensor.name for name, tensor in self.tensors.items())
        )

    def get(self, key: str, default: Any = None) -> Any:
        """A key's value, by upstream's name."""
        return self.header.get(self.keys.get(key, key), default)

    def integer(self, key: str) -> int | None:
        """A key's value where it is a whole number."""
        value = self.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def integers(self, key: str) -> tuple[int, ...] | None:
        """A key's value where it is a list of whole numbers, not empty."""
        value = self.get(key)
        good = isinstance(value, list) and value and all(type(item) is int for item in value)
        return tuple(value) if good else None

    @property
    def tokens(self) -> list[bytes]:
        """The vocabulary; empty where the file has none."""
        value = self.get("tokenizer.ggml.tokens")
        good = isinstance(value, list) and all(isinstance(token, bytes) for token in value)
        return value if good else []

    @property
    def target_layers(self) -> tuple[int, ...] | None:
        """The verifier's layers whose inputs it reads; None where the file leaves that open.

        A fork's ``target_layer_ids`` are published ids. In files of architecture ``dflash`` they
        were one or the other, as the day had it: such a file leaves it open.
        """
        if TARGET_LAYERS_KEY in self.keys or self.is_upstream:
            return self.integers(TARGET_LAYERS_KEY)
        published = self.integers(PUBLISHED_LAYERS_KEY)
        return None if published is None else tuple(layer_inputs(published))


def is_drafter(architecture: object) -> bool:
    """Whether an architecture's name is that of a DFlash drafter, upstream's or a fork's."""
    return architecture == ARCHITECTURE or (
        isinstance(architecture, str) and FORK_ARCHITECTURE.fullmatch(architecture) is not None
    )


def as_upstream(header: GGUFHeader) -> ForkDrafter:
    """Read a drafter's header under upstream's names."""
    architecture = str(header.get("general.architecture"))
    keys: list[str] = []
    tensors: list[str] = []
    problems: list[str] = []
    drafter = ForkDrafter(
        header,
        architecture,
        _keys(header, architecture, keys, problems),
        _tensors(header, architecture, tensors, problems),
        tuple(keys),
        tuple(tensors),
        tuple(problems),
    )
    return replace(drafter, problems=(*problems, *_contradictions(drafter)))


def _keys(
    header: GGUFHeader, architecture: str, unknown: list[str], problems: list[str]
) -> dict[str, str]:
    keys: dict[str, str] = {}
    for name in header:
        if name == "general.architecture":
            continue
        target = _upstream_key(name, architecture)
        if target is None:
            suffix = _suffix(name, architecture)
            if suffix not in _REDUNDANT_KEYS:
                unknown.append(name)
        elif target not in keys:
            keys[target] = name
        elif header.get(keys[target]) == header.get(name):
            keys[target] = target if name == target else keys[target]
        else:
            problems.append(
                f"{keys[target]} is {header.get(keys[target])!r:.40}, {name} is "
                f"{header.get(name)!r:.40}: "
                "expected the same"
            )
    return keys


def _suffix(name: str, architecture: str) -> str | None:
    for prefix in (f"{architecture}.", f"{ARCHITECTURE}."):
        if name.startswith(prefix):
            return name.removeprefix(prefix).removeprefix("dflash.")
    return None


def _upstream_key(name: str, architecture: str) -> str | None:
    suffix = _suffix(name, architecture)
    if suffix is None:
        return name
    if suffix in KEYS:
        return f"{ARCHITECTURE}.{suffix}"
    return _RENAMED_KEYS.get(suffix)


def _tensors(
    header: GGUFHeader, architecture: str, unknown: list[str], problems: list[str]
) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for name, tensor in header.tensors.items():
        target = _upstream_tensor(name, architecture)
        if _UPSTREAM_TENSOR.fullmatch(target) is None:
            unknown.append(name)
        elif target in tensors:
            problems.append(f"tensors {tensors[target].name} and {name} are both {target}")
        else:
            tensors[target] = tensor
    return tensors


def _upstream_tensor(name: str, architecture: str) -> str:
    if name.endswith(".post_attention_norm.weight") and architecture != ARCHITECTURE:
        # The norm before the feed-forward part; only in upstream's Gemma blocks it is another.
        return name.replace("post_attention_norm", "ffn_norm")
    return _RENAMED_TENSORS.get(name, name)


def _contradictions(drafter: ForkDrafter) -> Iterator[str]:
    yield from _layer_contradictions(drafter)
    values = {
        suffix: drafter.header.get(name)
        for name in drafter.header
        if (suffix := _suffix(name, drafter.architecture)) in _REDUNDANT_KEYS
    }
    n_embd = drafter.get("dflash.embedding_length")
    if "target_hidden_size" in values and values["target_hidden_size"] != n_embd:
        yield (
            f"target_hidden_size is {values['target_hidden_size']!r}: libllama reads features of "
            f"the drafter's own hidden size, {n_embd!r}"
        )
    theta = drafter.get("dflash.rope.freq_base", 10000.0)
    if "backbone_rotary_base" in values and values["backbone_rotary_base"] != theta:
        yield (
            f"backbone_rotary_base is {values['backbone_rotary_base']!r}: libllama rotates context "
            f"and block alike, here by {theta!r}"
        )
    if values.get("laguna"):
        yield "a Laguna drafter: libllama's dflash graph has neither its gates nor its norms"


def _layer_contradictions(drafter: ForkDrafter) -> Iterator[str]:
    published, inputs = (drafter.integers(key) for key in (PUBLISHED_LAYERS_KEY, TARGET_LAYERS_KEY))
    if published is not None and inputs is not None and tuple(layer_inputs(published)) != inputs:
        yield (
            f"target_layer_ids {list(published)} and target_layers {list(inputs)} contradict each "
            "other: expected the second to be one higher, inputs where the first are outputs"
        )

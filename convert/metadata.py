"""The ``general.*`` keys: name, licence and origin of a drafter."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import gguf

from .keys import ARCHITECTURE, Key, string, u32
from .source import Source
from .verifier import Verifier

VERSION_KEY = "dflash_local.version"


def general_keys(source: Source, verifier: Verifier, n_params: int, file_type: int) -> list[Key]:
    """What the model card, the config and the folder's name say, as upstream's converter has it."""
    card = _card(source, n_params)
    card.name = card.name or source.name
    card.base_models = card.base_models or _base_models(verifier)
    card.size_label = card.size_label or gguf.size_label(n_params, n_params, 0, 0)
    collector = gguf.GGUFWriter(None, ARCHITECTURE)
    collector.kv_data[0].clear()  # the architecture, which every writer adds
    collector.add_type(gguf.GGUFType.MODEL)
    card.set_gguf_meta_model(collector)
    keys = [_clean(name, entry) for name, entry in collector.kv_data[0].items()]
    numbers = [
        u32("general.file_type", file_type),
        u32("general.quantization_version", gguf.GGML_QUANT_VERSION),
    ]
    return [*keys, *numbers, *_version()]


def _card(source: Source, n_params: int) -> Any:
    try:
        return gguf.Metadata.load(None, source.folder, None, n_params)
    except Exception:  # a model card is free text: whatever its parser trips over is no obstacle
        return gguf.Metadata()


def _base_models(verifier: Verifier) -> list[dict[str, str]]:
    entry = {"name": verifier.name, "organization": verifier.organization}
    named = {key: value for key, value in entry.items() if value}
    return [named] if named else []


def _clean(name: str, entry: Any) -> Key:
    # Model cards hold numbers and dates where GGUF wants text.
    value = entry.value
    if entry.type == gguf.GGUFValueType.STRING:
        value = str(value)
    elif entry.type == gguf.GGUFValueType.ARRAY:
        value = [str(item) for item in value]
    item = gguf.GGUFValueType.STRING if entry.type == gguf.GGUFValueType.ARRAY else None
    return Key(name, value, entry.type, item)


def _version() -> list[Key]:
    try:
        return [string(VERSION_KEY, metadata.version("dflash-local"))]
    except metadata.PackageNotFoundError:
        return []

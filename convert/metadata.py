"""The ``general.*`` keys: name, licence and origin of a drafter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf

from .find import named_verifiers
from .keys import ARCHITECTURE, Key, u32
from .provenance import provenance_keys
from .source import Source
from .verifier import Verifier


def general_keys(source: Source, verifier: Verifier, n_params: int, file_type: int) -> list[Key]:
    """What the model card, the config and the source's name say, as upstream's converter has it.

    Behind them the ``dflash_local.*`` keys, for which upstream has none.
    """
    card = _card(source, n_params)
    card.name = card.name or source.name
    card.base_models = card.base_models or _base_models(source, verifier)
    card.size_label = card.size_label or gguf.size_label(n_params, n_params, 0, 0)
    if source.repository is not None:
        card.source_repo_url = card.source_repo_url or _url(source.repository)
    collector = gguf.GGUFWriter(None, ARCHITECTURE)
    collector.kv_data[0].clear()  # the architecture, which every writer adds
    collector.add_type(gguf.GGUFType.MODEL)
    card.set_gguf_meta_model(collector)
    keys = [_clean(name, entry) for name, entry in collector.kv_data[0].items()]
    numbers = [
        u32("general.file_type", file_type),
        u32("general.quantization_version", gguf.GGML_QUANT_VERSION),
    ]
    return [*keys, *numbers, *provenance_keys(source, verifier)]


def _card(source: Source, n_params: int) -> Any:
    # A snapshot's own folder is called after its commit: the heuristics take the repository's name.
    name = Path(source.name)
    try:
        card = gguf.Metadata.load_model_card(source.folder)
        return _heuristic(gguf.Metadata(), card, source.config, name, n_params)
    except Exception:  # a model card is free text: whatever its parser trips over is no obstacle
        return _heuristic(gguf.Metadata(), None, None, name, n_params)


def _base_models(source: Source, verifier: Verifier) -> list[dict[str, str]]:
    named = named_verifiers(source)
    if named:
        models: list[dict[str, str]] = _heuristic(
            gguf.Metadata(), {"base_model": named[:1]}, None, None, 0
        ).base_models
        return models
    entry = {"name": verifier.name, "organization": verifier.organization}
    known = {key: value for key, value in entry.items() if value}
    return [known] if known else []


def _url(repository: str) -> str:
    return f"https://huggingface.co/{repository}"


_heuristic = gguf.Metadata.apply_metadata_heuristic


def _clean(name: str, entry: Any) -> Key:
    # Model cards hold numbers and dates where GGUF wants text.
    value = entry.value
    if entry.type == gguf.GGUFValueType.STRING:
        value = str(value)
    elif entry.type == gguf.GGUFValueType.ARRAY:
        value = [str(item) for item in value]
    item = gguf.GGUFValueType.STRING if entry.type == gguf.GGUFValueType.ARRAY else None
    return Key(name, value, entry.type, item)

"""The ``general.*`` keys: name, licence and origin of a drafter."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import gguf

from dflash_local.files.key_table import ARCHITECTURE

from .provenance import provenance_keys
from .reading.model_card import model_card
from .reading.source import Source
from .verifiers.find import named_verifiers
from .verifiers.verifier import Verifier
from .writing.keys import Key, u32

_SCALARS = (str, int, float, date)


def general_keys(source: Source, verifier: Verifier, n_params: int, file_type: int) -> list[Key]:
    """What the model card, the config and the source's name say, as upstream's converter has it.

    Behind them the ``dflash_local.*`` keys, for which upstream has none.
    """
    text = model_card(source.folder)
    try:
        keys = _described(source, verifier, n_params, text, source.config)
    except Exception:  # gguf's heuristics expect what authors usually write
        keys = _described(source, verifier, n_params, {}, {})
    numbers = [
        u32("general.file_type", file_type),
        u32("general.quantization_version", gguf.GGML_QUANT_VERSION),
    ]
    return [*keys, *numbers, *provenance_keys(source, verifier)]


def _described(
    source: Source, verifier: Verifier, n_params: int, text: dict[str, Any], config: dict[str, Any]
) -> list[Key]:
    # A snapshot's own folder is called after its commit: the heuristics take the repository's name.
    name = Path(source.name)
    card = gguf.Metadata.apply_metadata_heuristic(gguf.Metadata(), text, config, name, n_params)
    card.name = card.name or source.name
    card.base_models = card.base_models or _base_models(source, verifier)
    card.size_label = card.size_label or gguf.size_label(n_params, n_params, 0, 0)
    if source.repository is not None:
        card.source_repo_url = card.source_repo_url or f"https://huggingface.co/{source.repository}"
    collector = gguf.GGUFWriter(None, ARCHITECTURE)
    collector.kv_data[0].clear()  # the architecture, which every writer adds
    collector.add_type(gguf.GGUFType.MODEL)
    card.set_gguf_meta_model(collector)
    return [key for name, entry in collector.kv_data[0].items() for key in _clean(name, entry)]


def _base_models(source: Source, verifier: Verifier) -> list[dict[str, str]]:
    if named := named_verifiers(source):
        text = {"base_model": named[:1]}
        found = gguf.Metadata.apply_metadata_heuristic(gguf.Metadata(), text)
        models: list[dict[str, str]] = found.base_models
        return models
    entry = {"name": verifier.name, "organization": verifier.organization}
    known = {key: value for key, value in entry.items() if value}
    return [known] if known else []


def _clean(name: str, entry: Any) -> Iterator[Key]:
    # Model cards hold numbers and dates where GGUF wants text, and lists where nobody does.
    if entry.type == gguf.GGUFValueType.ARRAY:
        items = [str(item) for item in entry.value if isinstance(item, _SCALARS)]
        if items:
            yield Key(name, items, entry.type, gguf.GGUFValueType.STRING)
    elif entry.type != gguf.GGUFValueType.STRING:
        yield Key(name, entry.value, entry.type)
    elif isinstance(entry.value, _SCALARS):
        yield Key(name, str(entry.value), entry.type)

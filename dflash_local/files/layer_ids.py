"""The one place that knows how published layer ids and llama.cpp's layer inputs relate.

Trainers name the layers whose *outputs* a drafter reads (``target_layer_ids``); llama.cpp names
those whose *inputs* it takes (``dflash.target_layers``), as ``aux_hidden_state_layer_ids`` does.
What layer i puts out, layer i + 1 takes in. The id -1 means the embeddings, which are what layer 0
takes in.
"""

from __future__ import annotations

from collections.abc import Iterable


def layer_inputs(published_ids: Iterable[int]) -> list[int]:
    """Layers whose inputs are read, of those whose outputs are published."""
    return [layer + 1 for layer in published_ids]


def published_ids(layer_inputs: Iterable[int]) -> list[int]:
    """Layers whose outputs are read, of those whose inputs llama.cpp takes."""
    return [layer - 1 for layer in layer_inputs]

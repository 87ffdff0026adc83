"""Layout H: the assistant of Muse-Glimmer, a flat config with names of its own."""

from __future__ import annotations

from dataclasses import replace

from ..reading.fields import Fields, raise_problems
from ..reading.source import Source
from .attention import SLIDING, stated, window, with_masks
from .blocks import parse_blocks
from .drafter import DrafterConfig, SlidingWindow
from .names import Expected
from .tensors import drafter_tensors

DEFAULT_THETA = 500000.0  # of its class in transformers


def parse_config(source: Source) -> DrafterConfig:
    """Read and check config.json.

    Raises:
        ModelError: lists every field that is missing, wrong or cannot be expressed in GGUF.
    """
    top = Fields(source.config, [])
    config = parse_blocks(source, top, top, block_size=top.integer("block_size", low=2))
    rope = config.rope
    config = replace(
        config,
        rope=rope if rope.theta is not None else replace(rope, theta=DEFAULT_THETA),
        sliding=_sliding(top, config.n_layer),
    )
    # Its masks look both ways inside a block, in sliding layers too.
    config = with_masks(config, stated(top, Fields({}, [])), ())
    raise_problems(source.folder / "config.json", top.problems)
    return config


def expected_tensors(config: DrafterConfig, source: Source) -> list[Expected]:
    """Every tensor of such a checkpoint, in the order they are written."""
    return drafter_tensors(
        config,
        source,
        features="encoder.fc.weight",
        features_norm="encoder.output_norm_enc.weight",
    )


def _sliding(top: Fields, n_layer: int) -> SlidingWindow | None:
    # No switch: a window is in use where layers say so, and all say so where none is named.
    if not top.get("sliding_window"):
        return None
    types = top.get("layer_types") or [SLIDING] * n_layer
    if not isinstance(types, list) or len(types) != n_layer:
        top.problems.append(f"`layer_types`: found {types!r:.60}, expected one entry a layer")
        return None
    return window(top.integer("sliding_window"), [kind == SLIDING for kind in types])

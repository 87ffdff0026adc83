"""Which positions a drafter's layers see: sliding windows, and causal or not inside a block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..reading.fields import Fields
from .drafter import DrafterConfig, SlidingWindow

ATTENTION = {"causal": True, "bidirectional": False}
SLIDING, FULL = "sliding_attention", "full_attention"


def sliding_window(block: Fields, draft: Fields, n_layer: int) -> SlidingWindow | None:
    """The window and its layers, or None where it is not in use.

    Args:
        block: the transformer's fields.
        draft: the drafter's own; `use_swa` there means every layer.
    """
    everywhere = bool(draft.flag("use_swa"))
    in_use = everywhere or bool(block.flag("use_sliding_window"))
    name = next((name for name in ("swa_window_size", "sliding_window") if draft.get(name)), None)
    if name is None or not in_use:
        return None
    kinds = layer_types(block, n_layer, windowed=True)
    return window(draft.integer(name), [everywhere or kind == SLIDING for kind in kinds])


def window(size: int, pattern: Sequence[bool]) -> SlidingWindow | None:
    """A window; None where no layer has it: a file that says so ends libllama's process."""
    return SlidingWindow(size, tuple(pattern)) if any(pattern) else None


def layer_types(block: Fields, n_layer: int, *, windowed: bool) -> list[str]:
    """One kind a layer; where the config names none, transformers' rule for Qwen3."""
    types = block.get("layer_types")
    if types is None:
        first = block.integer("max_window_layers", 28, low=0) if windowed else n_layer
        return [SLIDING if i >= first else FULL for i in range(n_layer)]
    if isinstance(types, list) and len(types) == n_layer:
        return types
    block.problems.append(f"`layer_types`: found {types!r:.60}, expected one entry a layer")
    return [FULL] * n_layer


def stated(top: Fields, nested: Fields) -> bool | None:
    """What the config itself says of all layers: `is_causal`, then `dflash_config.causal`."""
    return top.flag("is_causal", nested.flag("causal"))


def with_masks(
    config: DrafterConfig, stated: bool | None, causal_layers: tuple[bool, ...]
) -> DrafterConfig:
    """Settle the mask inside a block.

    Args:
        stated: what the config says of all layers; it goes before everything else.
        causal_layers: what the trainer's model makes of each layer where the config is silent.
    """
    if stated is not None or not any(causal_layers):
        return replace(config, causal=stated)
    if all(causal_layers):
        return replace(config, causal=True)
    return replace(config, causal_layers=causal_layers)


def choose(config: DrafterConfig, attention: str | None) -> tuple[DrafterConfig, list[str]]:
    """Apply the user's choice, "causal" or "bidirectional"; without one, a mixture is a problem."""
    if attention is None:
        return config, [_mixture(config.causal_layers)] if config.causal_layers else []
    if attention not in ATTENTION:
        return config, [f"attention: found {attention!r}, expected one of {', '.join(ATTENTION)}"]
    causal = ATTENTION[attention]
    warnings = list(config.warnings)
    if config.causal_layers is None and bool(config.causal) != causal:
        trained = "causal" if config.causal else "bidirectional"
        warnings.append(f"written as {attention}, although the checkpoint was trained {trained}")
    return replace(config, causal=causal, causal_layers=None, warnings=tuple(warnings)), []


def _mixture(causal_layers: tuple[bool, ...]) -> str:
    causal = ", ".join(str(i) for i, flag in enumerate(causal_layers) if flag)
    others = ", ".join(str(i) for i, flag in enumerate(causal_layers) if not flag)
    return (
        f"attention inside a block was trained causal in layers {causal} and bidirectional in "
        f"layers {others}, but libllama has one setting for all: choose `--attention causal` or "
        "`--attention bidirectional` (in Python attention=...), and compare acceptance lengths; "
        "llama.cpp's own converter leaves such a drafter bidirectional"
    )

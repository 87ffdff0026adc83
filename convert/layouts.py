"""The layouts of checkpoints that can be converted, and how one is recognised.

A new layout is a module with a `parse_config` and an `expected_tensors`, and one entry here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dflash_local.errors import ModelError

from . import zlab
from .drafter import DrafterConfig
from .names import Expected
from .source import Source


@dataclass(frozen=True)
class Layout:
    """One way of publishing a drafter.

    Attributes:
        architectures: values of ``architectures[0]`` that announce it.
        parse_config: checks config.json; raises ModelError.
        expected_tensors: every tensor of such a checkpoint, in the order of writing.
    """

    name: str
    architectures: tuple[str, ...]
    parse_config: Callable[[Source], DrafterConfig]
    expected_tensors: Callable[[DrafterConfig, Source], list[Expected]]


LAYOUTS = (
    Layout(
        "z-lab DFlash",
        ("DFlashDraftModel", "Qwen3DFlashDraftModel"),
        zlab.parse_config,
        zlab.expected_tensors,
    ),
)

# Other checkpoints that say DFlashDraftModel, by a field only they have.
FOREIGN_FIELDS = {
    "speculators_model_type": "speculators",
    "transformer_layer_config": "speculators",
    "speculative_config": "Open Spec Config",
    "projector_type": "Domino",
    "conv_kernel_size": "DFlash2",
    "selector_rank": "DFlash2",
    "markov_rank": "DSpark",
    "attention_value_scale": "MiMo",
}


def detect(source: Source) -> Layout:
    """Find the layout of a checkpoint.

    Raises:
        ModelError: names the architecture found and those that can be converted.
    """
    names = source.config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    layout = next((layout for layout in LAYOUTS if name in layout.architectures), None)
    foreign = _foreign(source)
    if layout is None or foreign:
        found = "no `architectures`" if name is None else f"architecture {name!r}"
        kind = f" in the {foreign} layout" if foreign else ""
        raise ModelError(
            f"{source.folder / 'config.json'}: found {found}{kind}, which cannot be converted yet; "
            f"expected {_supported()}"
        )
    return layout


def _foreign(source: Source) -> str | None:
    nested: Any = source.config.get("dflash_config")
    fields = {**source.config, **(nested if isinstance(nested, dict) else {})}
    if (source.folder / "mask_embedding.pt").exists():
        return "MiMo"
    named = (kind for field, kind in FOREIGN_FIELDS.items() if fields.get(field) is not None)
    return next(named, None)


def _supported() -> str:
    return "; ".join(f"{' or '.join(layout.architectures)} ({layout.name})" for layout in LAYOUTS)

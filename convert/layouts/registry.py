"""The layouts of checkpoints that can be converted, and how one is recognised.

A new layout is a module with a `parse_config`, where its tensors differ an `expected_tensors`, and
one entry here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dflash_local.errors import ModelError

from ..reading.source import Source
from . import dspark, gemma4, muse, open_spec, speculators, zlab
from .drafter import DrafterConfig
from .names import Expected
from .refused import refusal
from .tensors import drafter_tensors


@dataclass(frozen=True)
class Layout:
    """One way of publishing a drafter.

    Attributes:
        architectures: values of ``architectures[0]`` that announce it.
        parse_config: checks config.json; raises ModelError.
        section: a field of config.json that only this layout has; None is none of these fields.
        expected_tensors: every tensor of such a checkpoint, in the order of writing.
    """

    name: str
    architectures: tuple[str, ...]
    parse_config: Callable[[Source], DrafterConfig]
    section: str | None = None
    expected_tensors: Callable[[DrafterConfig, Source], list[Expected]] = drafter_tensors


_DSPARK = ("DSparkDraftModel", "DSparkSpeculator")
LAYOUTS = (
    Layout("z-lab DFlash", ("DFlashDraftModel", "Qwen3DFlashDraftModel"), zlab.parse_config),
    Layout("z-lab DFlash2", ("DFlash2DraftModel",), zlab.parse_config),
    Layout(
        "speculators",
        ("DFlashDraftModel", "DFlashSpeculator", "DFlash2DraftModel", *_DSPARK),
        speculators.parse_config,
        section=speculators.LAYER_CONFIG,
    ),
    Layout(
        "Open Spec Config",
        ("DflashDraftModel", "DFlashDraftModel"),
        open_spec.parse_config,
        section=open_spec.SECTION,
    ),
    Layout(
        "DeepSpec",
        ("Qwen3DSparkModel", "Lfm2DSparkDraftModel", "LingDSparkModel", *_DSPARK),
        dspark.parse_config,
    ),
    Layout("DeepSpec for Gemma 4", ("Gemma4DSparkModel",), gemma4.parse_config),
    Layout(
        "Muse-Glimmer assistant",
        ("MuseGlimmerAssistantModel",),
        muse.parse_config,
        expected_tensors=muse.expected_tensors,
    ),
)
LAYOUT_SECTIONS = tuple(layout.section for layout in LAYOUTS if layout.section is not None)


def detect(source: Source) -> Layout:
    """Find the layout of a checkpoint.

    Raises:
        ModelError: names the architecture found and those that can be converted, or why this one
            cannot be.
    """
    config_path = source.folder / "config.json"
    if (reason := refusal(source)) is not None:
        raise ModelError(f"{config_path}: cannot be converted. {reason}")
    names = source.config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    section = next(
        (field for field in LAYOUT_SECTIONS if source.config.get(field) is not None), None
    )
    for layout in LAYOUTS:
        if layout.section == section and name in layout.architectures:
            return layout
    found = "no `architectures`" if name is None else f"architecture {name!r}"
    within = f" with `{section}`" if section else ""
    raise ModelError(
        f"{config_path}: found {found}{within}, which cannot be converted; expected {_supported()}"
    )


def _supported() -> str:
    return "; ".join(f"{' or '.join(layout.architectures)} ({layout.name})" for layout in LAYOUTS)

"""Tensor names as wrappers save them, and the model's own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from .fields import raise_problems
from .safetensors_file import StoredTensor

#: What torch.compile, FSDP, activation checkpointing and DeepSpeed put between a module and its
#: parts, at any depth. No model has parts of these names.
WRAPPERS = frozenset(
    {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
)
#: What DDP, PEFT, transformers and trainers call a drafter that they hold.
HOLDERS = frozenset({"module", "base_model", "model", "draft_model", "drafter"})

_LAYER = re.compile(r"(?:^|\.)layers\.\d+\.")  # every drafter has some


def bare_tensors(tensors: Mapping[str, StoredTensor], path: Path) -> dict[str, StoredTensor]:
    """The tensors by the names that the drafter's own module gives them.

    Raises:
        ModelError: two tensors have one such name.
    """
    bare: dict[str, StoredTensor] = {}
    problems = []
    for stored, name in bare_names(tensors).items():
        if name in bare:
            first, second = sorted((bare[name].name, stored), key=len)
            problems.append(f"tensor {name} is there twice, as {first} and as {second}")
        bare[name] = tensors[stored]
    raise_problems(path, problems)
    return bare


def bare_names(names: Iterable[str]) -> dict[str, str]:
    """Each name without what wrappers and holders put before it."""
    stored = list(names)
    bare = [".".join(part for part in name.split(".") if part not in WRAPPERS) for name in stored]
    common = _common_prefix(bare)
    return {name: _held(rest[len(common) :]) for name, rest in zip(stored, bare, strict=True)}


def _common_prefix(names: list[str]) -> str:
    """What stands before ``layers.`` in one name and begins all of them."""
    layer = next((found for name in names if (found := _LAYER.search(name))), None)
    if layer is None:
        return ""
    prefix = layer.string[: layer.start() + layer.group().startswith(".")]
    return prefix if all(name.startswith(prefix) for name in names) else ""


def _held(name: str) -> str:
    first, dot, rest = name.partition(".")
    return _held(rest) if dot and first in HOLDERS else name

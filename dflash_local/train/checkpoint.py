"""A drafter as files in the published layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from dflash_local.errors import DFlashError
from dflash_local.whole_files import whole_file, write_whole

from .model import DrafterModel


def save_checkpoint(folder: Path, state: dict[str, Tensor], fields: dict[str, Any]) -> Path:
    """Writes model.safetensors (BF16) and config.json; gives the folder.

    Each file takes its name when it is whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: value.to(torch.bfloat16).contiguous() for name, value in state.items()}
    with whole_file(folder / "model.safetensors", alone=True) as part:
        part.write_bytes(save(stored, metadata={"format": "pt"}))  # save_file's: the owner's only
    write_whole(folder / "config.json", json.dumps(fields, indent=2) + "\n", alone=True)
    return folder


def load_weights(drafter: DrafterModel, folder: Path) -> None:
    """The weights of a checkpoint in the published layout."""
    path = folder / "model.safetensors"
    try:
        state = load_file(path)
        drafter.load_state_dict({name: value.float() for name, value in state.items()})
    except (RuntimeError, SafetensorError) as error:
        raise DFlashError(f"{path} does not hold what its config.json says: {error}") from error

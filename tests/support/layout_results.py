"""Converting samples of layouts, and what the files then hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import convert_samples
import numpy as np
import numpy.typing as npt
from dflash_local.convert import convert
from layout_files import Checkpoint, Target, values, write_checkpoint, write_verifier
from layout_samples import SAMPLES

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Result:
    """A converted file.

    Attributes:
        keys: without the prefix ``dflash.``.
        tensors: by name.
        types: of the tensors, as gguf names them.
    """

    keys: dict[str, Any]
    tensors: dict[str, npt.NDArray[Any]]
    types: dict[str, str]
    warnings: tuple[str, ...]


def sample(name: str, *without: str, **config: Any) -> Checkpoint:
    """A sample without some of its tensors, and with other fields; None removes a field."""
    checkpoint = SAMPLES[name]
    fields = {**checkpoint.config, **config}
    return replace(
        checkpoint,
        config={key: value for key, value in fields.items() if value is not None},
        shapes={key: shape for key, shape in checkpoint.shapes.items() if key not in without},
        tables={key: table for key, table in checkpoint.tables.items() if key not in without},
    )


def within(name: str, section: str, **fields: Any) -> Checkpoint:
    """A sample with other fields in a section of its config."""
    old = SAMPLES[name].config[section]
    new = {key: value for key, value in {**old, **fields}.items() if value is not None}
    return sample(name, **{section: new})


def with_tensors(checkpoint: Checkpoint, **tensors: npt.NDArray[Any]) -> Checkpoint:
    """A checkpoint with more tensors, or others (dots as double underscores)."""
    named = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    shapes = {name: shape for name, shape in checkpoint.shapes.items() if name not in named}
    return replace(checkpoint, shapes=shapes, tables={**checkpoint.tables, **named})


def converted(folder: Path, checkpoint: Checkpoint, **options: Any) -> Result:
    """Convert a checkpoint for its verifier, in F32 unless told otherwise."""
    source = folder / f"drafter{len(list(folder.iterdir()))}"
    write_checkpoint(source, checkpoint)
    target = write_verifier(folder / "verifier.gguf", checkpoint.target or Target())
    report = convert(source, target, source / "d.gguf", **{"outtype": "f32", **options})
    keys, stored = convert_samples.read(report.output)
    return Result(
        keys={name.removeprefix("dflash."): value for name, value in keys.items()},
        tensors={name: np.array(tensor.data) for name, tensor in stored.items()},
        types={name: tensor.tensor_type.name for name, tensor in stored.items()},
        warnings=report.warnings,
    )


def weights(checkpoint: Checkpoint, name: str) -> FloatArray:
    """A tensor of a sample, as its type stores it."""
    array = values(name, checkpoint.shapes[name])
    return (array.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)

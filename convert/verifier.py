"""What a drafter's file takes from its verifier's GGUF: the tokenizer and a few sizes."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from gguf import GGUFEndian, GGUFReader, GGUFValueType

from dflash_local.errors import ModelError

DRAFTER_ARCHITECTURES = ("dflash", "eagle3")
SPLIT_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


@dataclass(frozen=True)
class Verifier:
    """The verifier, as its file describes it.

    Attributes:
        files: the GGUF and, where it is split, all its parts.
        n_layer: layers that take part in decoding (those for multi-token prediction do not).
        n_vocab: tokens of the tokenizer.
        n_rows: rows of ``token_embd``; `n_vocab` where the tensor's part is not at hand.
        has_head: it has an ``output.weight`` of its own; None where that is unknown.
        mrope: it uses a multi-axis rotary embedding.
        tokenizer: every ``tokenizer.*`` key with its value as stored: type, then bytes.
    """

    files: tuple[Path, ...]
    architecture: str
    name: str | None
    organization: str | None
    n_embd: int
    n_layer: int
    n_vocab: int
    n_rows: int
    has_head: bool | None
    mrope: bool
    tokenizer: Mapping[str, bytes]

    @property
    def path(self) -> Path:
        """The file that holds the tokenizer."""
        return self.files[0]


def read_verifier(path: str | os.PathLike[str]) -> Verifier:
    """Read a verifier's GGUF; of a split one, any part may be named.

    Raises:
        ModelError: no such file, no GGUF, damaged, or not a language model.
    """
    files = _parts(Path(path).expanduser().absolute())
    reader = _open(files[0])
    architecture = _text(reader, "general.architecture") or "unknown"
    _check_kind(files[0], reader, architecture)
    shapes = _tensor_shapes(reader, files)
    n_layer = _integer(files[0], reader, f"{architecture}.block_count")
    n_layer -= _integer(files[0], reader, f"{architecture}.nextn_predict_layers", 0)
    n_vocab = int(reader.fields["tokenizer.ggml.tokens"].parts[4][0])
    embedding = shapes.get("token_embd.weight")
    return Verifier(
        files=tuple(files),
        architecture=architecture,
        name=_text(reader, "general.name"),
        organization=_text(reader, "general.organization"),
        n_embd=_integer(files[0], reader, f"{architecture}.embedding_length"),
        n_layer=n_layer,
        n_vocab=n_vocab,
        n_rows=embedding[-1] if embedding else n_vocab,
        has_head="output.weight" in shapes if embedding else None,
        mrope=f"{architecture}.rope.dimension_sections" in reader.fields,
        tokenizer=_tokenizer(reader),
    )


def is_later_part(path: Path) -> bool:
    """Whether a file name says second or later part of a split GGUF."""
    split = SPLIT_NAME.fullmatch(path.name)
    return split is not None and int(split[2]) > 1


class _HeaderReader(GGUFReader):  # type: ignore[misc]
    """A GGUFReader that takes arrays as one block and looks at no weights.

    The parent makes two arrays an element: seconds for a vocabulary. It also refuses tensor types
    newer than itself, which do not matter here.
    """

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
        if raw_type != GGUFValueType.ARRAY or self.byte_order != "I":
            return super()._get_field_parts(orig_offs, raw_type)
        item, count = struct.unpack_from("<IQ", self.data, orig_offs)
        start = orig_offs + 12
        end = self._array_end(GGUFValueType(item), count, start)
        # As from the parent, the sizes of the blocks add up to that of the field in the file.
        blocks = [self.data[orig_offs : start - 8], np.array([count]), self.data[start:end]]
        return end - orig_offs, blocks, [2], [GGUFValueType.ARRAY, GGUFValueType(item)]

    def _array_end(self, item: GGUFValueType, count: int, position: int) -> int:
        scalar = self.gguf_scalar_to_np.get(item)
        if scalar is not None:
            position += count * np.dtype(scalar).itemsize
        elif item == GGUFValueType.STRING:
            for _ in range(count):
                position += 8 + struct.unpack_from("<Q", self.data, position)[0]
        else:
            raise ValueError(f"arrays of {item} are not known")
        if position > len(self.data):
            raise ValueError("an array is longer than the file")
        return position

    def _build_tensors(self, start_offs: int, fields: list[Any]) -> None:  # noqa: ARG002
        self.tensors = [SimpleNamespace(name=field.name, shape=field.parts[3]) for field in fields]


def _open(path: Path) -> Any:
    if not path.is_file():
        raise ModelError(f"the verifier {path} does not exist; expected a GGUF file")
    try:
        reader = _HeaderReader(path)
    except (ValueError, IndexError, KeyError, OverflowError, struct.error) as error:
        raise ModelError(
            f"{path} is damaged, truncated or no GGUF file ({error}); expected the verifier's GGUF"
        ) from None
    if reader.endianess != GGUFEndian.LITTLE:
        raise ModelError(f"{path} is a big-endian GGUF; expected a little-endian one")
    return reader


def _parts(path: Path) -> list[Path]:
    split = SPLIT_NAME.fullmatch(path.name)
    if split is None:
        return [path]
    stem, _, count = split.groups()
    paths = [path.with_name(f"{stem}-{i:05d}-of-{count}.gguf") for i in range(1, int(count) + 1)]
    return [paths[0], *(part for part in paths[1:] if part.is_file())]


def _check_kind(path: Path, reader: Any, architecture: str) -> None:
    if architecture in DRAFTER_ARCHITECTURES:
        raise ModelError(f"{path} is itself a drafter ({architecture}); expected its verifier")
    if "tokenizer.ggml.tokens" not in reader.fields:
        raise ModelError(
            f"{path} (architecture {architecture!r}) has no tokenizer; expected the GGUF of a "
            "language model, of a split one its first part"
        )


def _tensor_shapes(reader: Any, files: list[Path]) -> dict[str, list[int]]:
    readers = [reader, *(_open(file) for file in files[1:])]
    return {
        tensor.name: [int(n) for n in tensor.shape] for part in readers for tensor in part.tensors
    }


def _tokenizer(reader: Any) -> dict[str, bytes]:
    values = {}
    for name, field in reader.fields.items():
        if name.startswith("tokenizer."):
            sizes = [part.nbytes for part in field.parts]
            start = field.offset + sizes[0] + sizes[1]  # behind the key
            values[name] = reader.data[start : field.offset + sum(sizes)].tobytes()
    return values


def _text(reader: Any, name: str) -> str | None:
    field = reader.fields.get(name)
    if field is None or field.types != [GGUFValueType.STRING]:
        return None
    return bytes(field.parts[-1]).decode("utf-8", "replace")


def _integer(path: Path, reader: Any, name: str, default: int | None = None) -> int:
    field = reader.fields.get(name)
    if field is None and default is not None:
        return default
    if field is None or len(field.types) != 1 or field.parts[-1].dtype.kind not in "ui":
        raise ModelError(f"{path} has no number `{name}`; expected a complete verifier GGUF")
    return int(field.parts[-1][0])

"""The head of a verifier, for a drafter that has to bring its own."""

from __future__ import annotations

from collections.abc import Iterator

from gguf import GGMLQuantizationType

from dflash_local.errors import ModelError
from dflash_local.files.gguf_header import GGUFHeader
from dflash_local.files.gguf_parts import SPLIT_NAME

from ..reading.gguf_tensors import dequantized, row_pieces, stored_rows
from ..reading.safetensors_file import Array
from ..writing.encode import OutType, stored_bytes, stored_type
from ..writing.writer import OutputTensor
from .verifier import Verifier

NAME = "output.weight"
# What libllama multiplies with beside the weights: the rows alone would be another head.
_SCALE = "output.scale"


def verifier_head(verifier: Verifier, wanted: OutType) -> OutputTensor:
    """The verifier's head, or its embedding where that is the head, as a drafter's.

    Its rows are copied bit for bit, or encoded in the type wanted where that takes less room.

    Raises:
        ModelError: the file that holds it is missing or cut off, or it is more than its rows.
    """
    header, name = _place(verifier)
    rows = stored_rows(header, name)
    tensor = header.tensors[name]
    kind = GGMLQuantizationType(tensor.type)
    shape = tensor.shape[::-1]
    smaller = stored_type(NAME, shape, wanted)
    if stored_bytes(shape, kind) <= stored_bytes(shape, smaller):
        return OutputTensor(NAME, shape, kind, lambda: row_pieces(rows))
    return OutputTensor(NAME, shape, smaller, lambda: _values(rows, kind))


def _place(verifier: Verifier) -> tuple[GGUFHeader, str]:
    split = SPLIT_NAME.fullmatch(verifier.path.name)
    if split is not None and len(verifier.files) < int(split[3]):
        # One that is missing may hold the head, and the embedding would be taken for it.
        raise ModelError(
            f"{verifier.path}: found {len(verifier.files)} of its {int(split[3])} parts; the "
            "verifier's head is needed, so all must lie beside each other"
        )
    places = {name: header for header in map(GGUFHeader, verifier.files) for name in header.tensors}
    if _SCALE in places:
        raise ModelError(
            f"{verifier.path}: its head has a scale of its own ({_SCALE}), which a drafter's head "
            "cannot have: name a file of the verifier in another type"
        )
    for name in (NAME, "token_embd.weight"):
        if name in places:
            return places[name], name
    raise ModelError(f"{verifier.path} has neither output.weight nor token_embd.weight")


def _values(rows: Array, kind: GGMLQuantizationType) -> Iterator[Array]:
    for piece in row_pieces(rows):
        values = dequantized(piece, kind)
        if values is None:
            raise ModelError(f"the verifier's head has type {kind.name}, which cannot be read here")
        yield values

"""Tensors of the output that are no tensor of the checkpoint as it is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from gguf import GGMLQuantizationType

from dflash_local.errors import ModelError
from dflash_local.files.gguf_header import GGUFHeader

from .layouts.drafter import DrafterConfig
from .layouts.rope import frequency_factors
from .layouts.vocabulary import draft_ids
from .reading.gguf_tensors import dequantized, row_pieces, stored_rows
from .reading.mask_embedding import with_mask_row
from .reading.safetensors_file import Array, Float32Array
from .reading.source import Source
from .verifiers.verifier import Verifier
from .verifiers.verifier_head import verifier_head
from .writing.encode import OutType, stored_type
from .writing.writer import OutputTensor

EMBEDDING, HEAD = "token_embd.weight", "output.weight"
PIECE_ROWS = 1 << 16


def generated_tensors(
    config: DrafterConfig, source: Source, verifier: Verifier, written: set[str], wanted: OutType
) -> list[OutputTensor]:
    """What has to be written beside the checkpoint's own tensors.

    Args:
        written: GGUF names of the checkpoint's own tensors.

    Raises:
        ModelError: the verifier's embedding or head is needed, and cannot be read.
    """
    tensors = []
    factors = frequency_factors(config.rope, config.head_dim)
    if factors is not None:
        tensors.append(_whole("rope_freqs.weight", factors, GGMLQuantizationType.F32))
    if config.n_vocab_draft is not None:
        tensors.append(_whole("d2t", draft_ids(source), GGMLQuantizationType.I64))
    if config.markov is not None and not config.markov.trained:
        n_vocab = config.n_vocab or verifier.n_vocab
        for name, n_rows in (("markov_w1", n_vocab), ("markov_w2", config.n_vocab_draft)):
            shape = (n_rows or n_vocab, config.markov.rank)
            tensors.append(_encoded(f"{name}.weight", shape, wanted, _zeros(shape)))
    if config.mask_embedding is not None:
        if EMBEDDING not in written:
            tensors.append(_patched(config, verifier, wanted))
        if HEAD not in written:
            tensors.append(verifier_head(verifier, wanted))
    return tensors


def patched_rows(
    config: DrafterConfig, name: str, pieces: Callable[[], Iterator[Float32Array]]
) -> Callable[[], Iterator[Float32Array]]:
    """A tensor's rows, with the trained row of the mask token where they are an embedding."""
    row = config.mask_embedding
    if name != EMBEDDING or row is None:
        return pieces
    return lambda: with_mask_row(pieces(), config.mask_token_id, row)


def _whole(name: str, values: Array, kind: GGMLQuantizationType) -> OutputTensor:
    return OutputTensor(name, values.shape, kind, lambda: [values])


def _encoded(
    name: str, shape: tuple[int, ...], wanted: OutType, pieces: Callable[[], Iterable[Array]]
) -> OutputTensor:
    return OutputTensor(name, shape, stored_type(name, shape, wanted), pieces)


def _zeros(shape: tuple[int, ...]) -> Callable[[], Iterator[Float32Array]]:
    def pieces() -> Iterator[Float32Array]:
        for first in range(0, shape[0], PIECE_ROWS):
            yield np.zeros((min(PIECE_ROWS, shape[0] - first), *shape[1:]), np.float32)

    return pieces


def _patched(config: DrafterConfig, verifier: Verifier, wanted: OutType) -> OutputTensor:
    header = next((h for h in map(GGUFHeader, verifier.files) if EMBEDDING in h.tensors), None)
    if header is None:
        raise ModelError(
            f"{verifier.path} has no {EMBEDDING}, which this drafter needs a copy of; of a split "
            "file all parts must lie beside each other"
        )
    shape = header.tensors[EMBEDDING].shape[::-1]
    pieces = patched_rows(config, EMBEDDING, lambda: _values(header))
    return _encoded(EMBEDDING, shape, wanted, pieces)


def _values(header: GGUFHeader) -> Iterator[Float32Array]:
    kind = GGMLQuantizationType(header.tensors[EMBEDDING].type)
    for rows in row_pieces(stored_rows(header, EMBEDDING)):
        values = dequantized(rows, kind)
        if values is None:
            raise ModelError(f"{header.path}: {EMBEDDING} has type {kind.name}, not readable here")
        yield np.asarray(values, np.float32)

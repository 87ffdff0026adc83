"""A GGUF file's tensors against the checkpoint's: the same, but for rounding."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES

from dflash_local.files.gguf_header import GGUFHeader, TensorInfo

from ..reading.gguf_tensors import tensor_type, type_name
from ..reading.safetensors_file import Float32Array
from .forward_weights import HEAD, Weight, gguf_weight

# Root mean square of what rounding does, relative to the tensor's; several times what is usual,
# far below what another tensor would give (1.4). By bits a weight, from many to few.
ROUNDING = ((32, 1e-6), (16, 0.02), (8, 0.04), (6, 0.1), (5, 0.2), (4, 0.35), (0, 0.7))

TOKEN_IDS = "d2t"
REDUCED = (HEAD, "markov_w2.weight")


def token_ids(header: GGUFHeader) -> npt.NDArray[np.int64] | None:
    """The token of each row of a file's head; None where it knows the whole vocabulary."""
    return header.i64(TOKEN_IDS) if TOKEN_IDS in header.tensors else None


def reduced(
    weights: Mapping[str, Weight], known: npt.NDArray[np.int64] | None, header: GGUFHeader
) -> tuple[dict[str, Weight], list[str]]:
    """The heads with the rows of the tokens that a file keeps, which may be some of them.

    Args:
        weights: by GGUF name, complete.
        known: the token of each row of the checkpoint's head; None is the whole vocabulary.
    """
    kept, n_rows = token_ids(header), weights[HEAD].shape[0]
    row_of = {token: row for row, token in enumerate(range(n_rows) if known is None else known)}
    if kept is None:
        missing = f"tensor {TOKEN_IDS}: missing, the checkpoint proposes {n_rows} tokens only"
        return dict(weights), [] if known is None else [missing]
    unknown = [token for token in kept.tolist() if token not in row_of]
    if unknown:
        wrong = f"tensor {TOKEN_IDS}: token {unknown[0]} is none that the checkpoint proposes"
        return dict(weights), [wrong]
    rows = [row_of[token] for token in kept.tolist()]
    picked = {name: weights[name].picked(rows) for name in REDUCED if name in weights}
    return {**weights, **picked}, []


def file_weights(
    expected: Mapping[str, Weight], own: Iterable[str], header: GGUFHeader
) -> tuple[dict[str, Weight], list[str]]:
    """The file's weights where they are the expected ones but for rounding.

    Args:
        expected: by GGUF name, what the checkpoint and the verifier give.
        own: names among them that the file must have; others it may borrow.

    Returns:
        All of `expected`, from the file where it is right; and what is wrong, one line a tensor.
    """
    weights, problems = dict(expected), []
    for name, weight in expected.items():
        if name not in header.tensors:
            if name in own:
                problems.append(f"tensor {name}: missing, the checkpoint has it")
            continue
        problem = _problem(header, name, weight)
        if problem is None:
            weights[name] = _as_shaped(gguf_weight(header, name), weight.shape)
        else:
            problems.append(problem)
    unknown = sorted(header.tensors.keys() - expected.keys() - {TOKEN_IDS})
    problems += [f"tensor {name}: the checkpoint has no such tensor" for name in unknown]
    return weights, problems


def _as_shaped(weight: Weight, shape: tuple[int, ...]) -> Weight:
    # GGUF drops ones, and its rows are those of the last axis.
    if len(shape) == 2:
        return weight
    return Weight(shape, lambda: [weight.read().reshape(shape)], weight.rows)


def _problem(header: GGUFHeader, name: str, expected: Weight) -> str | None:
    tensor = header.tensors[name]
    n_rows, n_columns = math.prod(expected.shape[:-1]), expected.shape[-1]
    if tensor.shape[0] != n_columns or math.prod(tensor.shape) != n_rows * n_columns:
        return f"tensor {name}: found shape {tensor.shape[::-1]}, expected {expected.shape}"
    error, limit = _difference(gguf_weight(header, name), expected), _rounding(tensor)
    if error <= limit:
        return None
    return (
        f"tensor {name}: differs from the checkpoint's by {error:.1%}, expected at most "
        f"{limit:.1%} from rounding to {type_name(tensor)}"
    )


def _rounding(tensor: TensorInfo) -> float:
    kind = tensor_type(tensor)
    assert kind is not None  # or `gguf_weight` had refused it
    block, n_bytes = GGML_QUANT_SIZES[kind]
    return next(limit for bits, limit in ROUNDING if 8 * n_bytes / block >= bits)


def _difference(one: Weight, other: Weight) -> float:
    """Root mean square, relative to `other`'s."""
    apart = size = 0.0
    for a, b in _aligned(one.pieces(), other.pieces(), other.shape[-1]):
        apart += float(np.square(a - b, dtype=np.float64).sum())
        size += float(np.square(b, dtype=np.float64).sum())
    return 0.0 if apart == 0 else math.sqrt(apart / size) if size else math.inf


def _aligned(
    one: Iterable[Float32Array], other: Iterable[Float32Array], width: int
) -> Iterator[Sequence[Float32Array]]:
    """Rows of two streams side by side, wherever each of them parts its pieces."""
    streams = [(piece.reshape(-1, width) for piece in pieces) for pieces in (one, other)]
    left = [np.empty((0, width), np.float32)] * 2
    while True:
        left = [
            rest if len(rest) else next(stream, rest)
            for rest, stream in zip(left, streams, strict=True)
        ]
        n = min(map(len, left))
        if n == 0:
            return
        yield [rest[:n] for rest in left]
        left = [rest[n:] for rest in left]

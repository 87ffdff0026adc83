"""The pieces of a drafter's forward pass, on plain arrays: F32 in, F32 out."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ..layouts.rope import DEFAULT_THETA, Rope, llama3_factors
from ..reading.safetensors_file import Float32Array


def rms_norm(x: Float32Array, weight: Float32Array | None, eps: float) -> Float32Array:
    """Root mean square norm over the last axis."""
    scale = 1 / np.sqrt(np.square(x).mean(-1, keepdims=True, dtype=np.float64) + eps)
    out = np.asarray(x * scale, np.float32)
    return out if weight is None else out * weight


def silu(x: Float32Array) -> Float32Array:
    """x times its sigmoid."""
    return x * sigmoid(x)


def gelu_tanh(x: Float32Array) -> Float32Array:
    """GELU in its tanh approximation."""
    inner = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    return np.asarray(0.5 * x * (1 + inner), np.float32)


def sigmoid(x: Float32Array) -> Float32Array:
    """The logistic function."""
    with np.errstate(over="ignore"):  # exp overflows to infinity, the result to 0
        return np.asarray(1 / (1 + np.exp(-x)), np.float32)


def softmax(x: Float32Array) -> Float32Array:
    """Over the last axis; a row needs one finite value."""
    powers = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True), np.float32)


def rotary_table(rope: Rope, head_dim: int, n: int) -> tuple[Float32Array, Float32Array]:
    """Cosines and sines of positions 0 to n - 1, [n, rotating pairs], as transformers has them."""
    n_rot = rope.n_rot or head_dim
    frequencies, magnitude = _frequencies(rope, n_rot)
    angles = np.arange(n, dtype=np.float32)[:, None] * frequencies.astype(np.float32)
    return np.cos(angles) * np.float32(magnitude), np.sin(angles) * np.float32(magnitude)


def _frequencies(rope: Rope, n_rot: int) -> tuple[npt.NDArray[np.float64], float]:
    theta = rope.theta or DEFAULT_THETA
    plain = np.power(theta, -np.arange(0, n_rot, 2) / n_rot)
    if rope.yarn is not None:
        return plain / rope.yarn.factors(theta, n_rot), rope.yarn.scale
    if rope.llama3 is not None:
        return plain / llama3_factors(rope.llama3, theta, n_rot), 1.0
    if rope.n_proportional is not None:
        return np.where(np.arange(n_rot // 2) < rope.n_proportional, plain, 0), 1.0
    return plain / float(rope.scaling.get("factor", 1)), 1.0


def rotate(x: Float32Array, cos: Float32Array, sin: Float32Array) -> Float32Array:
    """Rotate x [n, heads, d] by tables [n, pairs]: pair i is dimensions (i, i + pairs)."""
    n_pairs = cos.shape[1]
    a, b, rest = np.split(x, [n_pairs, 2 * n_pairs], axis=-1)
    cos, sin = cos[:, None], sin[:, None]
    return np.concatenate([a * cos - b * sin, a * sin + b * cos, rest], axis=-1)


def visible(n_ctx: int, n_block: int, causal: bool, window: int | None) -> npt.NDArray[np.bool_]:
    """Which of the n_ctx + n_block positions each row of the block sees."""
    keys = np.arange(n_ctx + n_block)
    ahead = keys[None, :] - keys[n_ctx:, None]
    seen = ahead <= 0 if causal else np.ones_like(ahead, np.bool_)
    if window is not None:
        seen &= np.abs(ahead) < window
    return seen


def attention(
    q: Float32Array,
    k: Float32Array,
    v: Float32Array,
    seen: npt.NDArray[np.bool_],
    scale: float,
    sinks: Float32Array | None,
) -> Float32Array:
    """Grouped-query attention of q [m, heads, d] to k and v [n, kv heads, d]; [m, heads * d].

    Args:
        sinks: a logit per head that takes its share of the attention and gives nothing.
    """
    groups = q.shape[1] // k.shape[1]
    k, v = (np.repeat(x, groups, axis=1) for x in (k, v))
    scores = np.einsum("mhd,nhd->hmn", q, k) * np.float32(scale)
    scores = np.where(seen, scores, np.float32(-np.inf))
    if sinks is not None:
        column = np.broadcast_to(sinks[:, None, None], (*scores.shape[:2], 1))
        scores = np.concatenate([scores, column], axis=-1)
    weights = softmax(scores)[..., : len(k)]
    out = np.einsum("hmn,nhd->mhd", weights, v).reshape(len(q), -1)
    return np.asarray(out, np.float32)


def convolve(x: Float32Array, dynamic: Float32Array, base: Float32Array) -> Float32Array:
    """DFlash2's causal convolution over the rows of a block.

    Args:
        x: [rows, n_embd].
        dynamic: [rows, taps, groups], what each row adds to the kernel of a group.
        base: [taps, n_embd], the kernel.
    """
    group_size = x.shape[1] // dynamic.shape[2]
    out = np.zeros_like(x)
    for tap in range(min(len(base), len(x))):
        kernel = np.repeat(dynamic[:, tap], group_size, axis=-1) + base[tap]
        out[tap:] += kernel[tap:] * x[: len(x) - tap]
    return out

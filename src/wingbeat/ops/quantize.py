"""What ``linear`` does to its factors: the number formats every backend agrees on.

- float32: nothing.
- bfloat16: weights and activations are rounded to nearest even; products are summed in float32.
- int8: weights and activations are cut along K into blocks of 64. A block's scale is ``max|x| / 127``, for a
  weight rounded up to a bfloat16, for an activation a float32; ``q = round(x / scale)``. The scale of a block that
  holds a NaN or an infinity is NaN, so that a broken weight shows in the logits. A block's products are
  summed exactly in integers, then ``sum += block * (weight_scale * activation_scale)`` in float32, in K order.
- int4: weights in blocks of 32 along K, ``q`` from -8 to 7 times a bfloat16 scale, which may be negative; activations
  and sums as in int8. Of the scales ``m / c``, where ``m`` is the block's largest value by size, and of each of these
  refitted by least squares to the ``q`` it gave, a block takes the one with the smallest squared error.
- nf4, sf4: weights in blocks of 64 along K, each a code of 4 bits for one of 16 levels in -127..127; the scale is
  ``max|x| / 127`` rounded to bfloat16, and the code that of the level nearest to ``x / scale`` (of two as near, the
  lower). Activations and sums as in int8.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from wingbeat.ops.table import BFLOAT16, FloatArray, round_up

BLOCK = 64
INT4_BLOCK = 32
INT4_STEPS = (-8.5, -8.0, -7.5, 7.0, 7.5)
"""What ``c`` above may be: where the largest value falls."""

LEVELS = {
    "nf4": (-127, -88, -67, -50, -36, -23, -12, 0, 10, 20, 31, 43, 56, 71, 92, 127),
    "sf4": (-127, -80, -58, -42, -30, -19, -10, 0, 8, 17, 26, 36, 48, 62, 83, 127),
}
"""In 127ths of the largest weight: the quantiles of a normal distribution (NF4 of QLoRA, arXiv 2305.14314) and of
Student's t with five degrees of freedom (SF4, arXiv 2405.03103) that web-rwkv takes, rounded to whole numbers. The
rounding adds 0.5 % at most to the squared error of normal weights."""


def round_bfloat16(x: FloatArray) -> FloatArray:
    """Round float32 to bfloat16 and back: same shape, float32."""
    return x.astype(BFLOAT16).astype(np.float32)


def _blocks(x: FloatArray, size: int = BLOCK) -> FloatArray:
    """[rows, K] -> [rows, blocks, size], zero padded."""
    rows, k = x.shape
    padded = np.zeros((rows, round_up(k, size)), np.float32)
    padded[:, :k] = x
    return padded.reshape(rows, -1, size)


def _round_scale_up(scale: FloatArray) -> FloatArray:
    bits = scale.view(np.uint32)
    return ((bits + 0xFFFF) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def _scale(blocks: FloatArray) -> FloatArray:
    top = np.abs(blocks).max(axis=2) * np.float32(1 / 127)
    return np.where(np.isfinite(top), top, np.float32(np.nan))


def _scaled(blocks: FloatArray, scale: FloatArray) -> FloatArray:
    # The reciprocal of a denormal scale overflows: such a block is zero to every purpose.
    inverse = np.where(scale > 1e-35, np.float32(1) / np.maximum(scale, np.float32(1e-35)), np.float32(0))
    return np.nan_to_num(blocks * inverse[..., None])  # NaN lives on in the scale


def _quantize(blocks: FloatArray, scale: FloatArray) -> NDArray[np.int8]:
    return np.clip(np.rint(_scaled(blocks, scale)), -127, 127).astype(np.int8)


def quantize_weight(w: FloatArray) -> tuple[NDArray[np.int8], FloatArray]:
    """int8 blocks of a weight [O, K]: values [O, blocks, 64] and scales float32 [O, blocks]."""
    blocks = _blocks(w)
    scale = _round_scale_up(np.ascontiguousarray(_scale(blocks)))
    return _quantize(blocks, scale), scale


def quantize_activation(x: FloatArray) -> tuple[NDArray[np.int8], FloatArray]:
    """int8 blocks of activations [M, K]: values [M, blocks, 64] and scales float32 [M, blocks]."""
    blocks = _blocks(x)
    scale = _scale(blocks)
    return _quantize(blocks, scale), scale


def quantize_weight_int4(w: FloatArray) -> tuple[NDArray[np.int8], FloatArray]:
    """int4 blocks of a weight [O, K]: values [O, blocks, 32] and scales float32 [O, blocks]."""
    blocks = _blocks(w, INT4_BLOCK)
    broken = np.logical_not(np.isfinite(blocks).all(axis=2, keepdims=True))
    x = np.where(broken, np.float32(0), blocks)
    top = np.take_along_axis(x, np.abs(x).argmax(axis=2)[..., None], axis=2)[..., 0]
    best_scale, best_q = np.zeros_like(top), np.zeros(x.shape, np.int8)
    least = np.full(top.shape, np.inf)
    for steps in INT4_STEPS:
        scale = round_bfloat16((top.astype(np.float64) / steps).astype(np.float32))
        q, error = _try_int4(x, scale)
        refitted = round_bfloat16(_refit(x, q, scale))
        for tried_scale, (tried_q, tried_error) in ((scale, (q, error)), (refitted, _try_int4(x, refitted))):
            better = tried_error < least
            least = np.where(better, tried_error, least)
            best_scale = np.where(better, tried_scale, best_scale)
            best_q = np.where(better[..., None], tried_q, best_q)
    return best_q, np.where(broken[..., 0], np.float32(np.nan), best_scale)


def _try_int4(x: FloatArray, scale: FloatArray) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """The nearest values that a scale allows, and their squared error."""
    usable = np.abs(scale) > 1e-35
    inverse = np.where(usable, np.float32(1) / np.where(usable, scale, np.float32(1)), np.float32(0))
    q = np.clip(np.rint(x * inverse[..., None]), -8, 7)
    return q.astype(np.int8), ((q.astype(np.float64) * scale[..., None] - x) ** 2).sum(axis=2)


def _refit(x: FloatArray, q: NDArray[np.int8], scale: FloatArray) -> FloatArray:
    """The scale with the least squared error for these values; the given one where all of them are zero."""
    wide = q.astype(np.float64)
    squares = (wide**2).sum(axis=2)
    return np.where(squares > 0, (wide * x).sum(axis=2) / np.maximum(squares, 1), scale).astype(np.float32)


def quantize_weight_levels(w: FloatArray, dtype: str) -> tuple[NDArray[np.int8], FloatArray]:
    """nf4 or sf4 blocks of a weight [O, K]: levels [O, blocks, 64] and scales float32 [O, blocks]."""
    blocks, levels = _blocks(w), np.array(LEVELS[dtype], np.float32)
    scale = round_bfloat16(_scale(blocks))
    borders = (levels[:-1] + levels[1:]) / 2
    return levels[np.searchsorted(borders, _scaled(blocks, scale))].astype(np.int8), scale


QUANTIZERS: dict[str, Callable[[FloatArray], tuple[NDArray[np.int8], FloatArray]]] = {
    "int8": quantize_weight,
    "int4": quantize_weight_int4,
    "nf4": partial(quantize_weight_levels, dtype="nf4"),
    "sf4": partial(quantize_weight_levels, dtype="sf4"),
}
"""For each of ``QUANTS``: a weight [O, K] to values [O, blocks, block] and float32 scales [O, blocks]."""


def dequantize(q: NDArray[np.int8], scale: FloatArray, k: int) -> FloatArray:
    """The float32 [rows, K] that the values of blocks stand for."""
    return (q.astype(np.float32) * scale[..., None]).reshape(len(q), -1)[:, :k]

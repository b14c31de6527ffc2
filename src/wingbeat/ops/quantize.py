"""What ``linear`` does to its factors: the number formats every backend agrees on.

- float32: nothing.
- bfloat16: weights and activations are rounded to nearest even; products are summed in float32.
- int8: weights and activations are cut along K into blocks of 64. A block's scale is ``max|x| / 127``, for a
  weight rounded up to a bfloat16, for an activation a float32; ``q = round(x / scale)``. The scale of a block that
  holds a NaN or an infinity is NaN, so that a broken weight shows in the logits. A block's products are
  summed exactly in integers, then ``sum += block * (weight_scale * activation_scale)`` in float32, in K order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wingbeat.ops.table import BFLOAT16, FloatArray, round_up

BLOCK = 64


def round_bfloat16(x: FloatArray) -> FloatArray:
    """Round float32 to bfloat16 and back: same shape, float32."""
    return x.astype(BFLOAT16).astype(np.float32)


def _blocks(x: FloatArray) -> FloatArray:
    """[rows, K] -> [rows, blocks, 64], zero padded."""
    rows, k = x.shape
    padded = np.zeros((rows, round_up(k, BLOCK)), np.float32)
    padded[:, :k] = x
    return padded.reshape(rows, -1, BLOCK)


def _round_scale_up(scale: FloatArray) -> FloatArray:
    bits = scale.view(np.uint32)
    return ((bits + 0xFFFF) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def _scale(blocks: FloatArray) -> FloatArray:
    top = np.abs(blocks).max(axis=2) * np.float32(1 / 127)
    return np.where(np.isfinite(top), top, np.float32(np.nan))


def _quantize(blocks: FloatArray, scale: FloatArray) -> NDArray[np.int8]:
    # The reciprocal of a denormal scale overflows: such a block is zero to every purpose.
    inverse = np.where(scale > 1e-35, np.float32(1) / np.maximum(scale, np.float32(1e-35)), np.float32(0))
    q = np.clip(np.rint(blocks * inverse[..., None]), -127, 127)
    return np.nan_to_num(q).astype(np.int8)  # NaN lives on in the scale


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


def dequantize(q: NDArray[np.int8], scale: FloatArray, k: int) -> FloatArray:
    """The float32 [rows, K] that int8 blocks stand for."""
    return (q.astype(np.float32) * scale[..., None]).reshape(len(q), -1)[:, :k]

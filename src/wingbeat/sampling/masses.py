"""Masses: probabilities relative to the most likely token's, made so that sums of them are exact.

How two implementations can choose the same token always: a token's *mass* is its probability relative to the most
likely token, `2^depth` with `depth = (logit - max) * log2(e) / temperature`, computed in float32 by the fixed sequence
of IEEE operations of `exp2_f32` and then rounded to whole grains of 2^-29, so that every sum of masses is exact in
float64, and in whole numbers. Exact sums have no order, so vectors, blocks and threads cannot change them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CUTOFF = np.float32(-30.5)
"""Tokens less likely than 2^-30 (1e-9) of the most likely one have no mass; depths below this are all the same."""

_LOG2_E = 1.4426950408889634
_TO_EIGHTHS = np.float32(1572864.0)  # 1.5 * 2^20: adding it leaves the nearest eighth in the low mantissa bits
_POLYNOMIAL = (0.0554962232708931, 0.2402576357126236, 0.6931472420692444, 1.0)
_K = np.arange(8, dtype=np.uint32)
_EIGHTHS: NDArray[np.uint32] = np.exp2(_K / 8).astype(np.float32).view(np.uint32) - (_K << np.uint32(20))
_ROUNDER = 1.5 * 2.0**23  # adding it to a float64 leaves whole grains


def exp2_f32(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """2^x for -100 < x <= 0, within 2 ulp of float32; 2^0 is exactly 1.

    x = n + k / 8 + r with |r| <= 1/16; 2^(k / 8) is from a table; 2^r is a polynomial of degree 3, minimax in the
    relative error. No step is fused.
    """
    shifted = x + _TO_EIGHTHS
    r = x - (shifted - _TO_EIGHTHS)
    power = np.full_like(r, _POLYNOMIAL[0])
    for coefficient in _POLYNOMIAL[1:]:
        power = power * r + np.float32(coefficient)
    bits = shifted.view(np.uint32)
    # Shifted to the exponent, n brings k along, which the table makes up for.
    scale: NDArray[np.uint32] = _EIGHTHS[bits & np.uint32(7)] + (bits << np.uint32(20))
    scaled: NDArray[np.float32] = np.multiply(scale.view(np.float32), power, dtype=np.float32)
    return scaled


def depths(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float32]:
    """log2 of the probabilities relative to the largest, not below the cutoff. The largest logit is finite."""
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        depth = (logits - logits.max()) * np.float32(_LOG2_E / temperature)
    return np.where(depth > CUTOFF, depth, CUTOFF)


def round_to_grain(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Numbers from -1 to 1 as multiples of the grain."""
    return (values.astype(np.float64) + _ROUNDER) - _ROUNDER


def masses(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """Probabilities relative to the largest: float64 [N] in [0, 1]. The largest logit is finite."""
    return round_to_grain(exp2_f32(depths(logits, temperature)))


def share_infinities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Infinite logits share all of it equally, the limit of ever larger ones. The logits hold no NaN."""
    if logits.max() < np.inf:
        return logits
    return np.where(logits == np.inf, np.float32(0), np.float32(-np.inf))

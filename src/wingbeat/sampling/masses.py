"""Masses: probabilities relative to the most likely token's, made so that sums of them are exact.

How two implementations can choose the same token always: a token's *mass* is its probability relative to the most
likely token, `2^depth` with `depth = (logit - max) * log2(e) / temperature`, computed in float32 by the fixed sequence
of IEEE operations of `exp2_f32` and then rounded to a multiple of a grain so coarse (2^-36) that every sum of masses is
exact in float64. Exact sums have no order, so vectors, blocks and threads cannot change them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CUTOFF = np.float32(-37.5)
"""Tokens less likely than 2^-37.5 (5e-12) of the most likely one have no mass."""

_LOG2_E = 1.4426950408889634
_TO_INTEGER = np.float32(12582912.0)  # 1.5 * 2^23: adding it leaves the nearest integer in the low mantissa bits
_POLYNOMIAL = (
    0.00015353361959569156,
    0.0013398873852565885,
    0.00961843691766262,
    0.055503323674201965,
    0.24022647738456726,
    0.6931471824645996,
    1.0,
)


def exp2_f32(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """2^x for -100 < x <= 0, within 1.2 ulp of float32; 2^0 is exactly 1.

    x = n + r with |r| <= 1/2; 2^r is a polynomial of degree 6, minimax in the relative error. No step is fused.
    """
    shifted = x + _TO_INTEGER
    r = x - (shifted - _TO_INTEGER)
    power = np.full_like(r, _POLYNOMIAL[0])
    for coefficient in _POLYNOMIAL[1:]:
        power = power * r + np.float32(coefficient)
    return (power.view(np.uint32) + (shifted.view(np.uint32) << np.uint32(23))).view(np.float32)


def mass_rounder(vocab: int) -> float:
    """Adding and subtracting this rounds a number in [0, 1] so that sums of `vocab` such numbers are exact.

    The grain is 2^-36, or coarser for more than 2^17 - 1 tokens; a mass at the cutoff becomes 0.
    """
    return 1.5 * 2.0 ** (max(vocab.bit_length(), 17) - 1)


def depths(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float32]:
    """log2 of the probabilities relative to the largest, not below the cutoff. The largest logit is finite."""
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        depth = (logits - logits.max()) * np.float32(_LOG2_E / temperature)
    return np.where(depth > CUTOFF, depth, CUTOFF)


def round_to_grain(values: NDArray[np.float64], rounder: float) -> NDArray[np.float64]:
    """Numbers from -1 to 1 as multiples of the grain."""
    return (values + rounder) - rounder


def masses(logits: NDArray[np.float32], temperature: float, rounder: float) -> NDArray[np.float64]:
    """Probabilities relative to the largest: float64 [N] in [0, 1]. The largest logit is finite."""
    return round_to_grain(exp2_f32(depths(logits, temperature)).astype(np.float64), rounder)


def share_infinities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Infinite logits share all of it equally, the limit of ever larger ones. The logits hold no NaN."""
    if logits.max() < np.inf:
        return logits
    return np.where(logits == np.inf, np.float32(0), np.float32(-np.inf))

"""Which tokens the rows of a step may get, where that is not all of them."""

from __future__ import annotations

from collections.abc import Sequence as Rows

import numpy as np

from wingbeat.engine.sequence import Sequence
from wingbeat.sampling.samplers import Masks


def row_masks(sequences: Rows[Sequence], vocab_size: int) -> Masks | None:
    """The masks of these rows; None where none of them has one, which is nearly always."""
    forced = [(row, sequence.forced) for row, sequence in enumerate(sequences) if sequence.forced is not None]
    if not forced:
        return None
    bits = np.zeros((len(forced), -(-vocab_size // 32)), np.uint32)
    rows = np.full(len(sequences), -1, np.int32)
    for index, (row, token) in enumerate(forced):
        bits[index, token >> 5] = np.uint32(1 << (token & 31))
        rows[row] = index
    return Masks(bits, rows)

"""Which tokens the rows of a step may get, where that is not all of them."""

from __future__ import annotations

from collections.abc import Sequence as Rows

import numpy as np
from numpy.typing import NDArray

from wingbeat.engine.sequence import Sequence
from wingbeat.sampling.samplers import Masks


def row_masks(sequences: Rows[Sequence], vocab_size: int, end_of_text: int) -> Masks | None:
    """The masks of these rows, whose guards are ready; None where none of them has one, which is nearly always."""
    restrained = [row for row, sequence in enumerate(sequences) if sequence.restrained]
    if not restrained:
        return None
    rows = np.full(len(sequences), -1, np.int32)
    bits: list[NDArray[np.uint32]] = []
    known: dict[int, int] = {}  # masks that rows share, by identity
    for row in restrained:
        mask = _mask(sequences[row], vocab_size, end_of_text)
        if mask is None:
            continue
        rows[row] = place = known.setdefault(id(mask), len(bits))
        if place == len(bits):
            bits.append(mask)
    if not bits:
        return None
    return Masks(bits[0][None] if len(bits) == 1 else np.stack(bits), rows)


def _mask(sequence: Sequence, vocab_size: int, end_of_text: int) -> NDArray[np.uint32] | None:
    guard, forced = sequence.guard, sequence.forced
    if forced is not None and (guard is None or not guard.holds):
        mask = np.zeros(-(-vocab_size // 32), np.uint32)
        mask[forced >> 5] = np.uint32(1 << (forced & 31))
        return mask
    if guard is None:
        return None
    return guard.mask(end_of_text if sequence.sampling.ignore_eos else None)

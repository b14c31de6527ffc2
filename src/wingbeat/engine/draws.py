"""The draws of a step: who gets a token, and which tokens may come where that is not all of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wingbeat.engine.sequence import Sequence
from wingbeat.ops.table import IntArray
from wingbeat.sampling.results import Masks


class Draws(NamedTuple):
    """Sequences that get a token each, and what the sampler is told of them. It stays true until they have got it, and
    is therefore made before a step runs, while they are in the processor's caches."""

    sequences: list[Sequence]
    slots: IntArray
    """[R]"""
    positions: NDArray[np.int64]
    """[R]: of the draws."""
    restrained: list[int]
    """The rows that may not get just any token, or later may not."""


def draws_of(sequences: list[Sequence]) -> Draws:
    """One draw for each of these sequences."""
    return Draws(
        sequences,
        np.array([s.slot for s in sequences], np.int32),
        np.array([s.next_draw for s in sequences], np.int64),
        [row for row, s in enumerate(sequences) if s.restrained],
    )


def row_masks(draws: Draws, vocab_size: int, end_of_text: int) -> Masks | None:
    """The masks of these rows, whose guards are ready; None where none of them has one, which is nearly always."""
    if not draws.restrained:
        return None
    sequences = draws.sequences
    rows = np.full(len(sequences), -1, np.int32)
    bits: list[NDArray[np.uint32]] = []
    known: dict[int, int] = {}  # masks that rows share, by identity
    for row in draws.restrained:
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

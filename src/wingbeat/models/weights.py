"""From the tensors of a checkpoint to the weights of a program: what the version files share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from wingbeat.ops.table import FloatArray, Weight, WeightKind

Read = Callable[[str], NDArray]
"""Gives a checkpoint's array by official name."""


def vectors(read: Read, name: str, *sources: str) -> Weight:
    """Each source, a vector of any rank, is a row."""
    return Weight(name, WeightKind.VECTOR, lambda: np.stack([flat(read(source)) for source in sources]))


def previous_mix(read: Read, name: str, *sources: str) -> Weight:
    """The weights of the previous token where a file has those of the current one (`time_mix_*`)."""
    return Weight(name, WeightKind.VECTOR, lambda: 1 - np.stack([flat(read(source)) for source in sources]))


def norm(read: Read, name: str) -> Iterator[Weight]:
    """Weight and bias of a norm, under their own names."""
    return (vectors(read, part, part) for part in norm_names(name))


def matrix(read: Read, name: str) -> Weight:
    return Weight(name, WeightKind.MATRIX, lambda: read(name + ".weight"))


def factor(read: Read, source: str, name: str | None = None) -> Weight:
    """A low-rank factor, which checkpoints store as [in, out], by its own name or another."""
    return Weight(name or source, WeightKind.LOW_RANK, lambda: read(source).T)


def embedding(read: Read) -> Weight:
    """The table, whose rows go through ln0 once."""

    def ln0() -> tuple[FloatArray, FloatArray]:
        weight, bias = (flat(read(name)) for name in norm_names("blocks.0.ln0"))
        return weight, bias

    return Weight("emb", WeightKind.TABLE, lambda: read("emb.weight"), ln0)


def norm_names(name: str) -> tuple[str, str]:
    return name + ".weight", name + ".bias"


def flat(array: NDArray) -> FloatArray:
    return np.asarray(array, np.float32).reshape(-1)

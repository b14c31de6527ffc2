"""Which way a low-rank factor lies: official files hold [in, out], most converters the transposed matrix."""

from __future__ import annotations

from wingbeat.formats.lazy import LazyTensor
from wingbeat.models.layouts.transforms import transposed

FIRST, SECOND = -2, -1
"""Which axis of an official factor has the model's width: of (..., width, rank) and of (..., rank, width)."""


def lies_transposed(shape: tuple[int, ...], width: int, axis: int) -> bool | None:
    """Whether a factor must be turned to be official; None where its shape does not tell."""
    if len(shape) < 2 or shape[-1] == shape[-2] or width not in shape[-2:]:
        return None
    return shape[axis] != width


def official_factor(tensor: LazyTensor, width: int, axis: int, *, otherwise: bool) -> LazyTensor:
    """The factor as the official layout has it; ``otherwise``: whether to turn it where its shape does not tell."""
    turned = lies_transposed(tensor.shape, width, axis)
    square = len(tensor.shape) >= 2 and tensor.shape[-1] == tensor.shape[-2]
    return transposed(tensor) if turned or (turned is None and otherwise and square) else tensor

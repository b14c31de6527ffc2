"""Tensors made from others, still read only when asked for: turned, sliced, scaled.

`take` of such a tensor finds its elements in the source, so that the samples of a fingerprint cost no reading.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from wingbeat.formats.lazy import FormatError, LazyTensor, Places

Dims = tuple[int, ...]


def transposed(tensor: LazyTensor) -> LazyTensor:
    """The last two axes swapped. Raises FormatError for a tensor of fewer."""
    if len(tensor.shape) < 2:
        raise FormatError(f"a matrix was expected where a tensor of shape {list(tensor.shape)} is")
    rows, columns = tensor.shape[-2:]

    def pick(places: Places) -> NDArray:
        matrix, inside = np.divmod(places, rows * columns)
        row, column = np.divmod(inside, rows)
        return tensor.take(matrix * (rows * columns) + column * columns + row)

    shape = (*tensor.shape[:-2], columns, rows)
    return replace(tensor, shape=shape, read=lambda: np.swapaxes(tensor.read(), -1, -2), pick=pick)


def reshaped(tensor: LazyTensor, shape: Dims) -> LazyTensor:
    """The same elements in the same order. Raises FormatError if there are more or fewer."""
    if math.prod(shape) != tensor.size:
        raise FormatError(f"a tensor of shape {list(tensor.shape)} cannot be one of shape {list(shape)}")
    return replace(tensor, shape=shape, read=lambda: tensor.read().reshape(shape), pick=tensor.take)


def row(tensor: LazyTensor, index: int) -> LazyTensor:
    """`tensor[index]` along the first axis."""
    shape = tensor.shape[1:]
    start = index * math.prod(shape)
    return replace(
        tensor, shape=shape, read=lambda: tensor.read()[index], pick=lambda places: tensor.take(places + start)
    )


def first_column(tensor: LazyTensor) -> LazyTensor:
    """`tensor[:, 0]` of a matrix."""
    rows, columns = tensor.shape
    return replace(
        tensor, shape=(rows,), read=lambda: tensor.read()[:, 0], pick=lambda places: tensor.take(places * columns)
    )


def scaled(tensor: LazyTensor, factor: float) -> LazyTensor:
    """Each element times a power of two, in the same dtype."""
    number = tensor.dtype.type(factor)
    return replace(
        tensor, read=lambda: _read_only(tensor.read() * number), pick=lambda places: tensor.take(places) * number
    )


def computed(tensor: LazyTensor, function: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> LazyTensor:
    """A function of each element, which gets and gives float32."""

    def values(array: NDArray) -> NDArray:
        return _read_only(function(array.astype(np.float32)))

    return replace(
        tensor,
        dtype=np.dtype(np.float32),
        read=lambda: values(tensor.read()),
        pick=lambda places: values(tensor.take(places)),
    )


def rearranged(tensor: LazyTensor, shape: Dims, function: Callable[[NDArray], NDArray]) -> LazyTensor:
    """For small tensors: what `function` makes of the whole array, of `shape`."""
    return replace(tensor, shape=shape, read=lambda: _read_only(function(tensor.read())), pick=None)


def repeated(tensor: LazyTensor, times: int) -> LazyTensor:
    """Each element of a vector as a row of so many."""
    shape = (tensor.size, times)
    return rearranged(tensor, shape, lambda array: np.repeat(array.reshape(-1, 1), times, axis=1))


def without_trailing_ones(tensor: LazyTensor) -> LazyTensor:
    """(H, N, 1) as (H, N), (H, 1, 1) as (H,)."""
    shape = tensor.shape
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return reshaped(tensor, shape)


def _read_only(array: NDArray) -> NDArray:
    array = np.asarray(array)  # arithmetic makes scalars of arrays without dimensions
    array.flags.writeable = False
    return array

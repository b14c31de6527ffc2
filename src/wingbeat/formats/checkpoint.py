"""What every checkpoint reader yields: names to arrays that are read only when asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np


class FormatError(ValueError):
    """A file is not what it should be; the message says what was found and what to do."""


@dataclass(frozen=True)
class LazyTensor:
    """An array still in its file.

    `dtype` is the stored one (`ml_dtypes.bfloat16` for bf16). `read()` gives a read-only array of `shape`: a view of
    the memory-mapped file where the format allows, a copy otherwise. Its elements need not be contiguous.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, without gaps."""
        return self.size * self.dtype.itemsize


class Checkpoint(Mapping[str, LazyTensor]):
    """The tensors of one file by name, in the file's order, and the file's own remarks in `metadata`."""

    def __init__(self, path: Path, tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str]) -> None:
        self.path = path
        self.metadata = dict(metadata)
        self._tensors = dict(tensors)

    def __getitem__(self, name: str) -> LazyTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

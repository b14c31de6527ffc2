"""What every checkpoint reader yields: names to arrays that are read only when asked for."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MAX_DIMENSIONS = 32  # what every NumPy can hold
AROUND = (
    1 << 20
)  # bytes; who looks at a page gets those around it, too, so the ones before a range are released with it
MAX_BYTES = 2**62  # of one tensor, so that no size computation overflows
DAMAGED = "the file is damaged or was not completely copied: download it again"


Places = NDArray[np.int64]


class FormatError(ValueError):
    """A file is not what it should be; the message says what was found and what to do."""


class UnsupportedFormatError(FormatError):
    """A file of a kind that is known but not read yet."""


@dataclass(frozen=True)
class LazyTensor:
    """An array still in its file.

    `dtype` is the stored one (`ml_dtypes.bfloat16` for bf16). `read()` gives a read-only array of `shape`, aligned to
    its item size: a view of the memory-mapped file where the format allows, a copy otherwise. Its elements need not
    be contiguous. `pick` is how a format whose `read()` computes finds single elements without it.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], NDArray]
    place: FileRange | None = None
    pick: Callable[[Places], NDArray] | None = None

    def take(self, places: Places) -> NDArray:
        """The elements at these positions of the flattened, row-major array, without computing all of it."""
        if self.pick is not None:
            return self.pick(places)
        array = self.read()
        if array.flags.c_contiguous:  # else reshaping would copy all of it
            return array.reshape(-1)[places]
        return array[np.unravel_index(places, array.shape)]

    def announce(self) -> None:
        """Say that all of it will be read now, so that the system reads ahead."""
        if self.place is not None:
            self.place.announce()

    def release(self) -> None:
        """Give back the memory that reading took, where the file is mapped. What was read stays valid."""
        if self.place is not None:
            self.place.release()

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, without gaps."""
        return self.size * self.dtype.itemsize


class Checkpoint(Mapping[str, LazyTensor]):
    """The tensors of one file or folder by name, in its order, and its own remarks in `metadata`.

    `container` names the format. `lists` are its remarks that are lists of texts, such as a GGUF file's
    `tokenizer.ggml.tokens`: UTF-8 bytes, unchecked, read when called for.
    """

    def __init__(
        self,
        path: Path,
        tensors: Mapping[str, LazyTensor],
        metadata: Mapping[str, str],
        container: str,
        lists: Mapping[str, Callable[[], list[bytes]]] | None = None,
    ) -> None:
        self.path = path
        self.metadata = dict(metadata)
        self.container = container
        self.lists = dict(lists or {})
        self._tensors = dict(tensors)

    def __getitem__(self, name: str) -> LazyTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


class MappedFile:
    """A file memory-mapped read-only, in `bytes`; it stays mapped while a view of it lives. Raises FormatError.

    The system is told to read no more than what is looked at, until a `FileRange` is announced.
    """

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: an empty file
            raise FormatError(f"{path} cannot be read: {error}") from error
        self.bytes: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)
        self.advise("MADV_RANDOM", 0, len(self.bytes))

    def advise(self, advice: str, start: int, size: int) -> None:
        """`madvise` for the pages of `size` bytes from `start` on, where there is such an advice."""
        first = start // mmap.PAGESIZE * mmap.PAGESIZE
        if size and (number := getattr(mmap, advice, None)) is not None:
            self._map.madvise(number, first, start + size - first)


@dataclass(frozen=True)
class FileRange:
    """`size` bytes of a mapped file from `start` on."""

    file: MappedFile
    start: int
    size: int

    def announce(self) -> None:
        self.file.advise("MADV_NORMAL", self.start, self.size)
        self.file.advise("MADV_WILLNEED", self.start, self.size)

    def release(self) -> None:
        start = max(0, self.start - AROUND)
        self.file.advise("MADV_DONTNEED", start, self.start + self.size - start)

    @property
    def bytes(self) -> NDArray[np.uint8]:
        return self.file.bytes[self.start : self.start + self.size]

    def array(self, dtype: np.dtype, shape: tuple[int, ...]) -> NDArray:
        """The bytes as an array: a view, or a copy where they do not lie at a multiple of the item size."""
        raw = self.bytes
        if raw.ctypes.data % dtype.itemsize:
            raw = raw.copy()
            raw.flags.writeable = False
        return raw.view(dtype).reshape(shape)

    def tensor(self, dtype: np.dtype, shape: tuple[int, ...]) -> LazyTensor:
        """The tensor whose elements these bytes are, row by row."""
        return LazyTensor(shape, dtype, lambda: self.array(dtype, shape), self)


def check_shape(shape: tuple[int, ...], itemsize: int) -> int:
    """The number of elements of a shape read from a file; raises FormatError if no array could have it."""
    if len(shape) > MAX_DIMENSIONS or any(n < 0 for n in shape):
        raise FormatError(f"shape {_abbreviate(shape)} is impossible")
    if math.prod(n for n in shape if n) * itemsize > MAX_BYTES:
        raise FormatError(f"shape {_abbreviate(shape)} is absurdly large")
    return math.prod(shape)


def check_overlap(ranges: list[tuple[int, int]]) -> None:
    """Raise FormatError where two of the ranges (first byte, byte after the last) share bytes."""
    ranges = sorted(ranges)
    for (_, end), (begin, _) in pairwise(ranges):
        if begin < end:
            raise FormatError(f"two tensors share bytes {begin:,} to {end:,}: {DAMAGED}")


def _abbreviate(shape: tuple[int, ...]) -> str:
    text = str(list(shape[:8]))[:200]
    return text if len(shape) <= 8 else f"{text} and more"

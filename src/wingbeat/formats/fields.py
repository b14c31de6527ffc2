"""Reads the numbers and texts of a binary header one after another, and never beyond it."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from wingbeat.formats.lazy import DAMAGED, FormatError


class Fields:
    """``data`` from ``position`` to ``end``, both in bytes; numbers are little-endian."""

    def __init__(self, data: NDArray[np.uint8], position: int, end: int) -> None:
        self.position = position
        self._data = data.data
        self._end = min(end, len(data))

    @property
    def left(self) -> int:
        return self._end - self.position

    def skip(self, count: int) -> int:
        """Where ``count`` bytes begin that are now passed."""
        if not 0 <= count <= self.left:
            raise FormatError(f"its header needs {count:,} bytes where it has {self.left:,} left: {DAMAGED}")
        start = self.position
        self.position += count
        return start

    def take(self, count: int) -> bytes:
        start = self.skip(count)
        return bytes(self._data[start : start + count])

    def number(self, code: str) -> int | float:
        """The next number, as `struct` writes it."""
        return struct.unpack_from("<" + code, self._data, self.skip(struct.calcsize(code)))[0]

    def integer(self, code: str) -> int:
        return int(self.number(code))

    def skip_texts(self, count: int) -> None:
        """Pass texts that each follow their length, a 64-bit number."""
        length, data, position, last = struct.Struct("<Q").unpack_from, self._data, self.position, self._end - 8
        for _ in range(count):
            if position > last:
                raise FormatError(f"a list of texts in its header does not end: {DAMAGED}")
            position += 8 + length(data, position)[0]
        self.skip(position - self.position)

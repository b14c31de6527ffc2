"""ggml's quantised tensors: rows of small blocks that share a scale, decoded to float32.

The block layouts are those of ggml (`ggml-common.h`): a scale (and for some kinds a minimum) in float16, then packed
whole numbers. A block decodes to exactly the same values wherever it is read. The native kernels decode the commonest
kinds; what is here is the reference for them, and decodes the others.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wingbeat.formats.lazy import FileRange, FormatError, LazyTensor, Places
from wingbeat.ops.cores import default_threads
from wingbeat.ops.ggml import native_decoder

Bytes = NDArray[np.uint8]
Values = NDArray[np.float32]

AT_ONCE = 1 << 18  # elements decoded at a time, so that the temporaries stay in the cache


@dataclass(frozen=True)
class BlockKind:
    """A kind of block: ``elements`` in ``nbytes``. ``decode`` turns bytes [n, nbytes] into values [n, elements]."""

    name: str
    elements: int
    nbytes: int
    decode: Callable[[Bytes, Values], None]

    def size(self, shape: tuple[int, ...], count: int) -> int:
        """Bytes of a tensor of ``shape``, ``count`` elements. Raises FormatError where rows are no whole blocks."""
        if not shape or shape[-1] % self.elements:
            raise FormatError(f"rows of a {self.name} tensor must be multiples of {self.elements}, not {list(shape)}")
        return count // self.elements * self.nbytes

    def tensor(self, place: FileRange, shape: tuple[int, ...]) -> LazyTensor:
        """The tensor in these bytes as float32: decoded anew by each `read()`, whole blocks by `take()`."""

        def blocks() -> Bytes:
            return place.bytes.reshape(-1, self.nbytes)

        def read() -> NDArray:
            values = self._decoded(blocks()).reshape(shape)
            values.flags.writeable = False
            return values

        def pick(places: Places) -> NDArray:
            wanted, inverse = np.unique(places // self.elements, return_inverse=True)
            return self._decoded(blocks()[wanted])[inverse, places % self.elements]

        return LazyTensor(shape, np.dtype(np.float32), read, place, pick)

    def _decoded(self, blocks: Bytes) -> Values:
        values = np.empty((len(blocks), self.elements), np.float32)
        step = AT_ONCE // self.elements
        into = native_decoder(self.name) or self.decode

        def decode(start: int) -> None:
            with np.errstate(invalid="ignore", over="ignore"):  # a damaged scale may be infinite
                into(blocks[start : start + step], values[start : start + step])

        if len(blocks) <= step:
            decode(0)
            return values
        with ThreadPoolExecutor(default_threads()) as pool:  # NumPy works without the interpreter's lock
            for _ in pool.map(decode, range(0, len(blocks), step)):
                pass
        return values


def _half(blocks: Bytes, at: int) -> Values:
    """The float16 at byte ``at`` of each block, as a column."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def _nibbles(packed: Bytes, values: Values) -> None:
    """Low halves first: 16 bytes to 32 numbers."""
    values[:, :16] = packed & 15
    values[:, 16:] = packed >> 4


def _fifth_bits(packed: Bytes, values: Values) -> None:
    """Adds 16 where a bit is set."""
    values += np.float32(16) * np.unpackbits(packed, axis=1, bitorder="little")


def _q8_0(blocks: Bytes, values: Values) -> None:
    np.multiply(blocks[:, 2:].view(np.int8), _half(blocks, 0), out=values)


def _q4_0(blocks: Bytes, values: Values) -> None:
    _nibbles(blocks[:, 2:], values)
    values -= 8
    values *= _half(blocks, 0)


def _q4_1(blocks: Bytes, values: Values) -> None:
    _nibbles(blocks[:, 4:], values)
    values *= _half(blocks, 0)
    values += _half(blocks, 2)


def _q5_0(blocks: Bytes, values: Values) -> None:
    _nibbles(blocks[:, 6:], values)
    _fifth_bits(blocks[:, 2:6], values)
    values -= 16
    values *= _half(blocks, 0)


def _q5_1(blocks: Bytes, values: Values) -> None:
    _nibbles(blocks[:, 8:], values)
    _fifth_bits(blocks[:, 4:8], values)
    values *= _half(blocks, 0)
    values += _half(blocks, 2)


def _scales_and_minima(blocks: Bytes) -> tuple[Values, Values]:
    """Of the eight parts of a Q4_K or Q5_K block: six bits each in twelve bytes, times the block's two float16."""
    first, second, both = (blocks[:, at : at + 4] for at in (4, 8, 12))
    scales = np.concatenate([first & 63, (both & 15) | ((first >> 6) << 4)], axis=1)
    minima = np.concatenate([second & 63, (both >> 4) | ((second >> 6) << 4)], axis=1)
    return _half(blocks, 0) * scales, _half(blocks, 2) * minima


def _parts(packed: Bytes, parts: Values) -> None:
    """128 bytes to 8 parts of 32: the low halves of 32 bytes, then their high halves."""
    groups = packed.reshape(-1, 4, 32)
    parts[:, 0::2] = groups & 15
    parts[:, 1::2] = groups >> 4


def _scale_parts(blocks: Bytes, parts: Values) -> None:
    scales, minima = _scales_and_minima(blocks)
    parts *= scales[:, :, None]
    parts -= minima[:, :, None]


def _pairs_of_bits(packed: Bytes, values: Values) -> None:
    """64 bytes to 256 numbers: of each 32 bytes the lowest two bits, then the next two, and so on."""
    quarters, halves = values.reshape(-1, 2, 4, 32), packed.reshape(-1, 2, 32)
    for quarter in range(4):
        quarters[:, :, quarter] = (halves >> (2 * quarter)) & 3


def _q2_k(blocks: Bytes, values: Values) -> None:
    _pairs_of_bits(blocks[:, 16:80], values)
    sixteens = values.reshape(-1, 16, 16)
    sixteens *= (_half(blocks, 80) * (blocks[:, :16] & 15))[:, :, None]
    sixteens -= (_half(blocks, 82) * (blocks[:, :16] >> 4))[:, :, None]


def _q3_k(blocks: Bytes, values: Values) -> None:
    _pairs_of_bits(blocks[:, 32:96], values)
    eighths = values.reshape(-1, 8, 32)
    for eighth in range(8):  # a bit that is not set takes 4 away
        eighths[:, eighth] -= np.float32(4) * ((~blocks[:, :32] >> eighth) & 1)
    low, high = blocks[:, 96:104], blocks[:, 104:108]
    scales = np.concatenate([low & 15, low >> 4], axis=1)
    scales |= np.concatenate([((high >> (2 * part)) & 3) << 4 for part in range(4)], axis=1)
    sixteens = values.reshape(-1, 16, 16)
    sixteens *= (_half(blocks, 108) * (scales.view(np.int8) - np.int8(32)))[:, :, None]


def _q4_k(blocks: Bytes, values: Values) -> None:
    parts = values.reshape(-1, 8, 32)
    _parts(blocks[:, 16:], parts)
    _scale_parts(blocks, parts)


def _q5_k(blocks: Bytes, values: Values) -> None:
    parts = values.reshape(-1, 8, 32)
    _parts(blocks[:, 48:], parts)
    for part in range(8):  # bit `part` of each of 32 bytes
        parts[:, part] += np.float32(16) * ((blocks[:, 16:48] >> part) & 1)
    _scale_parts(blocks, parts)


def _q6_k(blocks: Bytes, values: Values) -> None:
    low, high = blocks[:, :128].reshape(-1, 2, 2, 32), blocks[:, 128:192].reshape(-1, 2, 32)
    quarters = values.reshape(-1, 2, 4, 32)  # two halves of four quarters
    for quarter in range(4):
        nibble = low[:, :, quarter % 2] & 15 if quarter < 2 else low[:, :, quarter % 2] >> 4
        quarters[:, :, quarter] = nibble | (((high >> (2 * quarter)) & 3) << 4)
    values -= 32
    scales = _half(blocks, 208) * blocks[:, 192:208].view(np.int8)
    sixteens = values.reshape(-1, 16, 16)
    sixteens *= scales[:, :, None]


Q4_0 = BlockKind("Q4_0", 32, 18, _q4_0)
Q4_1 = BlockKind("Q4_1", 32, 20, _q4_1)
Q5_0 = BlockKind("Q5_0", 32, 22, _q5_0)
Q5_1 = BlockKind("Q5_1", 32, 24, _q5_1)
Q8_0 = BlockKind("Q8_0", 32, 34, _q8_0)
Q2_K = BlockKind("Q2_K", 256, 84, _q2_k)
Q3_K = BlockKind("Q3_K", 256, 110, _q3_k)
Q4_K = BlockKind("Q4_K", 256, 144, _q4_k)
Q5_K = BlockKind("Q5_K", 256, 176, _q5_k)
Q6_K = BlockKind("Q6_K", 256, 210, _q6_k)

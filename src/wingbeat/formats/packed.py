"""Packed weights in a file that can be memory-mapped and computed with as it lies.

Layout: the magic, then little-endian 32-bit numbers: version, length and CRC-32 of a JSON header; the header; from the
next multiple of 4,096 bytes on the weights' blobs, each at a multiple of 64. The header's identity says whose weights
these are and what their bytes mean: this module only compares it. Checksums of all blobs find what was damaged.
"""

from __future__ import annotations

import secrets
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from wingbeat.formats.lazy import FileRange, FormatError, MappedFile
from wingbeat.ops.packed import PackedWeight

MAGIC = b"wbpacked"
VERSION = 1
PREFIX = struct.Struct("<8sIII")
PAGE, ALIGNMENT = 4096, 64
TOKENS = "tokens"
"""The kind, and the name, of the entry that holds the texts of a model's tokens."""

TEMPORARY = ".tmp"
"""How the name of a file ends that is not complete."""

Identity = dict[str, str | int]
Checksum = Callable[[NDArray[np.uint8]], int]
Size = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Extent = Annotated[int, msgspec.Meta(ge=0, le=2**28)]


class _Blob(msgspec.Struct, frozen=True, array_like=True):
    """``at`` counts from where the blobs begin."""

    at: Size
    size: Size
    checksum: int


class _Entry(msgspec.Struct, frozen=True):
    kind: str
    format: str
    rows: Extent
    columns: Extent
    data: _Blob
    scales: _Blob


class _Header(msgspec.Struct, frozen=True):
    identity: Identity
    size: Size  # of all blobs, with the gaps between them
    weights: dict[str, _Entry]


@dataclass(frozen=True)
class PackedFile:
    """An open file: ``weights`` are views of its mapping, unchecked until ``verify``."""

    identity: Identity
    weights: Mapping[str, PackedWeight]
    size: int
    announce: Callable[[], None]
    """Says that all of it will be read now."""
    _checksums: Mapping[str, tuple[int, int]]

    def verify(self, checksum: Checksum) -> None:
        """Read all of it. Raises FormatError for a byte that is not what was written."""
        for name, weight in self.weights.items():
            if (checksum(weight.data), checksum(weight.scales)) != self._checksums[name]:
                raise FormatError(f"the bytes of {name!r} are not those that were written")


def is_packed(path: Path) -> bool:
    """Whether this is a file of packed weights. Raises OSError when it cannot be read."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def open_packed(path: Path, identity: Identity | None) -> PackedFile:
    """Map a file. Raises FormatError, which says why, if it is damaged or not of this identity (None: of any)."""
    file = MappedFile(path)
    header, start = _read_header(file.bytes)
    wanted = header.identity if identity is None else identity
    differing = [key for key in wanted | header.identity if wanted.get(key) != header.identity.get(key)]
    if differing:
        raise FormatError(f"it is of another {' and '.join(differing)}")
    if len(file.bytes) != start + header.size:
        raise FormatError(f"it has {len(file.bytes):,} bytes in place of {start + header.size:,}")
    blobs = file.bytes[start:]
    weights = {
        name: PackedWeight(e.kind, e.format, e.rows, e.columns, _view(blobs, e.data), _view(blobs, e.scales))
        for name, e in header.weights.items()
    }
    sums = {name: (entry.data.checksum, entry.scales.checksum) for name, entry in header.weights.items()}
    everything = FileRange(file, 0, len(file.bytes))
    return PackedFile(header.identity, weights, everything.size, everything.announce, sums)


def packed_texts(texts: Sequence[bytes]) -> PackedWeight:
    """Texts of tokens as an entry beside the weights."""
    data = np.frombuffer(msgspec.msgpack.encode(texts), np.uint8)
    return PackedWeight(TOKENS, "msgpack", len(texts), 0, data, np.empty(0, np.uint8))


def carried_texts(path: Path) -> list[bytes]:
    """The texts of tokens, by id, that a file of packed weights holds; none for most. Raises FormatError."""
    entry = open_packed(path, None).weights.get(TOKENS)
    try:
        return [] if entry is None else msgspec.msgpack.decode(entry.data.tobytes(), type=list[bytes])
    except msgspec.DecodeError as error:
        raise FormatError(f"{path}: its list of tokens is damaged ({error}): make it anew") from error


def _read_header(data: NDArray[np.uint8]) -> tuple[_Header, int]:
    """The header, and where the blobs begin."""
    if len(data) < PREFIX.size or data[: len(MAGIC)].tobytes() != MAGIC:
        raise FormatError("it is no file of packed weights")
    _, version, length, crc = PREFIX.unpack(data[: PREFIX.size].tobytes())
    if version != VERSION:
        raise FormatError(f"it is of version {version}; this is {VERSION}")
    encoded = data[PREFIX.size : PREFIX.size + length].tobytes()
    if len(encoded) != length or zlib.crc32(encoded) != crc:
        raise FormatError("its header is damaged")
    try:
        return msgspec.json.decode(encoded, type=_Header), _round_up(PREFIX.size + length, PAGE)
    except msgspec.DecodeError as error:
        raise FormatError(f"its header is not as it should be: {error}") from error


def _view(blobs: NDArray[np.uint8], blob: _Blob) -> NDArray[np.uint8]:
    if blob.at + blob.size > len(blobs):
        raise FormatError("it names bytes that it does not have")
    return blobs[blob.at : blob.at + blob.size]


def save_packed(path: Path, identity: Identity, weights: Mapping[str, PackedWeight], checksum: Checksum) -> int:
    """Write a file that appears complete or not at all; returns its size. Raises OSError.

    Nothing waits for the disk: what a power failure leaves of the file is found by its checksums.
    """
    end = 0

    def place(blob: NDArray[np.uint8]) -> _Blob:
        nonlocal end
        at, end = end, _round_up(end + blob.size, ALIGNMENT)
        return _Blob(at, blob.size, checksum(blob))

    entries = {name: _Entry(*weight[:4], place(weight.data), place(weight.scales)) for name, weight in weights.items()}
    encoded = msgspec.json.encode(_Header(identity, end, entries))
    prefix = PREFIX.pack(MAGIC, VERSION, len(encoded), zlib.crc32(encoded))
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        with temporary.open("xb", buffering=0) as file:
            written = _write(file, prefix + encoded, PAGE)
            for weight in weights.values():
                for blob in (weight.data, weight.scales):
                    written += _write(file, blob.data, ALIGNMENT)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return written


def _write(file: BinaryIO, data: bytes | memoryview, alignment: int) -> int:
    """All of ``data``, and zeros up to ``alignment``. Unbuffered files may take it in pieces."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
    padding = -len(data) % alignment
    if padding:
        file.write(bytes(padding))
    return len(data) + padding


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple

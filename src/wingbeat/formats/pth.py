"""Torch's `.pth` files without torch.

Since torch 1.6 `torch.save` writes a zip archive of uncompressed entries in one folder: `data.pkl` is a pickle of the
saved value; `data/<key>` holds a storage's elements; `byteorder` is `little` or `big`. The storages are memory-mapped.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wingbeat.formats.lazy import DAMAGED, Checkpoint, FileRange, FormatError, MappedFile
from wingbeat.formats.torch_values import MAX_PICKLE, Storage, allowed, checkpoint_of
from wingbeat.formats.unpickle import unpickle

MAX_EXPANSION = 64  # of a compressed storage; weights hardly compress, so more is a trap ...
FREE_EXPANSION = 16 << 20  # ... unless the storage is this small, for a matrix of zeros
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    KeyError,
    IndexError,
    OverflowError,
    NotImplementedError,  # an unknown compression
    RuntimeError,  # an encrypted entry
    ValueError,
)


def open_pth(path: Path) -> Checkpoint:
    """Open a zip checkpoint of `torch.save`: a dictionary of tensors, bare or under `state_dict`, `model` or `module`.

    Scalars beside the tensors (a step count, say) become metadata. Raises FormatError.
    """
    try:
        archive = _Archive(path)
        pickle = archive.read("data.pkl", MAX_PICKLE)
        value, _ = unpickle(pickle, allowed(), archive.storage)
        return checkpoint_of(path, value)
    except FormatError as error:
        raise type(error)(f"{path}: {error}") from error


class _Archive:
    """The entries of a torch zip archive, with every size checked before it is believed."""

    def __init__(self, path: Path) -> None:
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
        except _ZIP_ERRORS as error:
            raise FormatError(f"the zip archive cannot be read ({error}): {DAMAGED}") from error
        roots = [e.filename[: -len("data.pkl")] for e in entries if e.filename.endswith("/data.pkl")]
        if len(roots) != 1:
            found = ", ".join(repr(e.filename[:60]) for e in entries[:3]) or "nothing"
            raise FormatError(f"a zip archive, but not one of torch.save: it has no single data.pkl, but {found}")
        self.file = MappedFile(path)
        self.bytes = self.file.bytes
        self.entries = {e.filename[len(roots[0]) :]: e for e in entries if e.filename.startswith(roots[0])}
        self.swapped = self._byteorder() == b"big"

    def _byteorder(self) -> bytes:
        order = self.read("byteorder", 64).strip() if "byteorder" in self.entries else b"little"
        if order not in (b"little", b"big"):
            raise FormatError(f"byte order {order[:20]!r} is neither little nor big: {DAMAGED}")
        return order

    def read(self, name: str, limit: int) -> bytes:
        """The content of a small entry, uncompressed."""
        entry = self.entries[name]
        if entry.file_size > limit:
            raise FormatError(
                f"its {name} has {entry.file_size:,} bytes; more than {limit:,} is not a model's: refused"
            )
        return self._loader(entry)().tobytes()

    def storage(self, persistent: Any) -> Storage:
        """What the persistent id `("storage", type, key, device, element count)` names."""
        match persistent:
            case ("storage", np.dtype() as dtype, str(key), str(), int(count)) if count >= 0:
                pass
            case _:
                raise FormatError(f"a tensor's storage is not described as torch does: {DAMAGED}")
        entry = self.entries.get(f"data/{key}")
        if entry is None:
            raise FormatError(f"storage {key[:60]!r} is missing from the archive: {DAMAGED}")
        if count * dtype.itemsize > entry.file_size:
            raise FormatError(
                f"storage {key[:60]!r} should hold {count:,} elements of {dtype}, but has {entry.file_size:,} bytes:"
                f" {DAMAGED}"
            )
        place = FileRange(self.file, self._data_start(entry), entry.compress_size)
        return Storage(dtype, count, self._loader(entry), place, self.swapped and dtype.itemsize > 1)

    def _loader(self, entry: zipfile.ZipInfo) -> Callable[[], NDArray[np.uint8]]:
        """A function for the bytes of an entry, `entry.file_size` of them."""
        start = self._data_start(entry)
        if entry.compress_type == zipfile.ZIP_STORED:
            if entry.compress_size != entry.file_size:
                raise FormatError(f"{entry.filename[:60]!r} gives two different sizes: {DAMAGED}")
            return lambda: self.bytes[start : start + entry.file_size]
        if entry.compress_type != zipfile.ZIP_DEFLATED:
            raise FormatError(f"{entry.filename[:60]!r} is compressed in an unknown way: save it again with torch.save")
        if entry.file_size > max(FREE_EXPANSION, MAX_EXPANSION * entry.compress_size):
            raise FormatError(
                f"{entry.filename[:60]!r} claims to grow from {entry.compress_size:,} to {entry.file_size:,} bytes when"
                " decompressed: refused. Save it again with torch.save, which does not compress"
            )
        return lambda: self._inflate(entry, start)

    def _data_start(self, entry: zipfile.ZipInfo) -> int:
        """Where the entry's bytes begin: behind its local header, whose extra field only the local header knows."""
        header = (
            self.bytes[entry.header_offset : entry.header_offset + 30].tobytes() if entry.header_offset >= 0 else b""
        )
        if len(header) != 30 or not header.startswith(b"PK\x03\x04"):
            raise FormatError(f"{entry.filename[:60]!r} is not where the archive says: {DAMAGED}")
        if entry.flag_bits & 1:
            raise FormatError("the archive is encrypted: unpack it and save it again with torch.save")
        lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        start = entry.header_offset + 30 + lengths
        if start + entry.compress_size > len(self.bytes):
            raise FormatError(f"{entry.filename[:60]!r} reaches beyond the end of the file: {DAMAGED}")
        return start

    def _inflate(self, entry: zipfile.ZipInfo, start: int) -> NDArray[np.uint8]:
        packed = self.bytes[start : start + entry.compress_size].data
        try:
            data = zlib.decompressobj(-15).decompress(packed, entry.file_size) if entry.file_size else b""
        except zlib.error as error:
            raise FormatError(f"{entry.filename[:60]!r} cannot be decompressed: {DAMAGED}") from error
        if len(data) != entry.file_size:
            raise FormatError(f"{entry.filename[:60]!r} is shorter than it says: {DAMAGED}")
        return np.frombuffer(data, np.uint8)

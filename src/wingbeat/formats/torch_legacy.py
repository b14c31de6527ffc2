"""Torch's files from before the zip archives (until 1.5, and `_use_new_zipfile_serialization=False` since).

Layout: five pickles one after another (a magic number, the format's version, facts of the writing system, the saved
value, the list of the storages' keys), then for each key the number of elements in 64 bits and the elements.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wingbeat.formats.lazy import DAMAGED, Checkpoint, FileRange, FormatError, MappedFile
from wingbeat.formats.torch_values import MAX_PICKLE, Storage, allowed, checkpoint_of
from wingbeat.formats.unpickle import unpickle

MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
VERSION = 1001


def open_torch_legacy(path: Path) -> Checkpoint:
    """Open a file of the old `torch.save`, with what `open_pth` takes in it. Raises FormatError."""
    try:
        return checkpoint_of(path, _Reader(MappedFile(path)).value())
    except FormatError as error:
        raise type(error)(f"{path}: {error}") from error


class _Reader:
    def __init__(self, file: MappedFile) -> None:
        self.file = file
        self.position = len(MAGIC)
        self.swapped = False
        self.storages: dict[str, Storage] = {}

    def value(self) -> Any:
        version = self.pickle()
        if version != VERSION:
            raise FormatError(f"it is of version {str(version)[:20]} of torch's old format; {VERSION} is read")
        match self.pickle():
            case {"little_endian": bool(little)}:
                self.swapped = not little
            case _:
                raise FormatError(f"it does not say its byte order: {DAMAGED}")
        value = self.pickle()
        self.place(self.pickle())
        return value

    def pickle(self) -> Any:
        piece = self.file.bytes[self.position : self.position + MAX_PICKLE].tobytes()
        value, end = unpickle(piece, allowed(), self.storage)
        self.position += end
        return value

    def storage(self, persistent: Any) -> Storage:
        """What `("storage", type, key, device, element count, None)` names; where it lies is found later."""
        match persistent:
            case ("storage", np.dtype() as dtype, str(key), str(), int(count), None) if count >= 0:
                pass
            case _:
                raise FormatError(f"a tensor's storage is not described as torch does: {DAMAGED}")
        if key not in self.storages:
            made = Storage(dtype, count, lambda: made.place.bytes, FileRange(self.file, 0, 0), self._swaps(dtype))
            self.storages[key] = made
        found = self.storages[key]
        if (found.dtype, found.count) != (dtype, count):
            raise FormatError(f"storage {key[:60]!r} is described in two ways: {DAMAGED}")
        return found

    def _swaps(self, dtype: np.dtype) -> bool:
        return self.swapped and dtype.itemsize > 1

    def place(self, keys: Any) -> None:
        """Find each storage's bytes, which follow one another in the order of the keys."""
        named = keys if isinstance(keys, list) and all(isinstance(key, str) for key in keys) else []
        if set(named) != set(self.storages) or len(named) != len(self.storages):
            raise FormatError(f"its storages are not those that its tensors need: {DAMAGED}")
        for key in named:
            storage = self.storages[key]
            count = int.from_bytes(self._bytes(8).tobytes(), "big" if self.swapped else "little")
            if count != storage.count:
                raise FormatError(
                    f"storage {key[:60]!r} has {count:,} elements in place of {storage.count:,}: {DAMAGED}"
                )
            start = self.position
            self._bytes(count * storage.dtype.itemsize)
            storage.place = FileRange(self.file, start, self.position - start)

    def _bytes(self, count: int) -> NDArray[np.uint8]:
        start = self.position
        if count > len(self.file.bytes) - start:
            raise FormatError(f"it ends too early, by {count - len(self.file.bytes) + start:,} bytes: {DAMAGED}")
        self.position += count
        return self.file.bytes[start : self.position]

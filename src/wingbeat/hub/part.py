"""A file while it is fetched: what is there of it survives a kill, and one process at a time writes it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Self

try:
    import fcntl
except ImportError:  # Windows refuses by itself to rename a file that another process has open
    fcntl = None

from wingbeat.hub.folder import PART
from wingbeat.progress import Show

_PIECE = 1 << 20  # bytes read at a time


class BusyError(Exception):
    """Another process is fetching this file."""


class Part:
    """The beginning of a file, in ``NAME.IDENTITY.part`` beside its destination, and the sha256 of it.

    ``identity`` tells versions of the file apart, so that one is never continued with the bytes of another.
    Raises BusyError or OSError.
    """

    def __init__(self, destination: Path, identity: str) -> None:
        self.path = destination.with_name(f"{destination.name}.{identity}{PART}")
        self._file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644), "r+b", 0)
        try:
            if fcntl is not None:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise BusyError from None
        self.size = 0
        self._hash = hashlib.sha256()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._file.closed:
            self.delete() if self.left == 0 else self._file.close()

    @property
    def sha256(self) -> str:
        """Of what is there, in hexadecimal."""
        return self._hash.hexdigest()

    @property
    def left(self) -> int:
        """Bytes that an earlier process left."""
        return os.fstat(self._file.fileno()).st_size

    def resume(self, limit: int | None, show: Show) -> None:
        """Take what an earlier process left, unless it is longer than ``limit``, the size of the whole."""
        left = self.left
        if limit is not None and left > limit:
            self.restart()
            return
        while piece := self._file.read(_PIECE):
            self._hash.update(piece)
            self.size += len(piece)
            show(self.size, left)

    def append(self, piece: bytes) -> None:
        view = memoryview(piece)
        while view:  # an unbuffered write may take a part
            view = view[self._file.write(view) :]
        self._hash.update(piece)
        self.size += len(piece)

    def restart(self) -> None:
        """Forget what is there."""
        self._file.truncate(0)
        self._file.seek(0)
        self.size = 0
        self._hash = hashlib.sha256()

    def delete(self) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)

    def become(self, destination: Path, *, replace: bool) -> None:
        """The whole file appears at ``destination`` at once; FileExistsError if there is one that may stay."""
        os.fsync(self._file.fileno())  # else a power failure after the rename could leave an empty file
        self._file.close()
        if replace:
            self.path.replace(destination)
            return
        try:
            os.link(self.path, destination)  # unlike a rename, it never replaces
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            if destination.exists():
                raise FileExistsError(destination) from None
            self.path.rename(destination)
        else:
            self.path.unlink()

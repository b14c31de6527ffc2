"""A sequence's state as a value: in a frame, in a file, and back in a slot.

The file is safetensors: one float32 tensor for each field of the state, and metadata. This module's entries of the
metadata begin with ``wingbeat.``; the others are the caller's.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from math import prod
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from wingbeat.formats.lazy import Checkpoint
from wingbeat.formats.safetensors import open_safetensors, save_safetensors

FILE_VERSION = "1"

_OURS = "wingbeat."
_VERSION, _FINGERPRINT, _POSITION, _CHECKSUM = (
    _OURS + name for name in ("state", "fingerprint", "position", "checksum")
)
_FLOAT = np.dtype("<f4")
_DIGITS = re.compile("[0-9]{1,18}")


class StateArray(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One field of a state: ``data`` holds little-endian float32 values of ``shape``, row-major."""

    shape: list[int]
    data: bytes


class StateSnapshot(msgspec.Struct, frozen=True, gc=False):
    """The memory of one sequence after ``position`` tokens, for the model of ``fingerprint`` alone.

    ``arrays`` are the fields of the model's ``StateLayout`` in canonical order and shape, whatever order a backend
    keeps them in. A sequence that begins from a snapshot goes on to the last bit as if it had never stopped: random
    draws too, which are counted by position. What penalties count is not part of it: they begin anew, with the tokens
    of the request that goes on.
    """

    fingerprint: str
    position: int
    arrays: dict[str, StateArray]

    @classmethod
    def from_arrays(cls, fingerprint: str, position: int, arrays: Mapping[str, NDArray[np.float32]]) -> StateSnapshot:
        """A snapshot with copies of ``arrays``, by field name."""
        fields = {name: StateArray(list(a.shape), a.astype(_FLOAT).tobytes()) for name, a in arrays.items()}
        return cls(fingerprint, position, fields)

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """The fields as read-only arrays that share this snapshot's memory. Raises ValueError if one is malformed."""
        arrays = {}
        for name, field in self.arrays.items():
            if any(n < 0 for n in field.shape) or len(field.data) != _FLOAT.itemsize * prod(field.shape):
                raise ValueError(f"state field {name!r} of {len(field.data)} bytes cannot have the shape {field.shape}")
            arrays[name] = np.frombuffer(field.data, _FLOAT).reshape(field.shape)
        return arrays

    def save(self, path: str | Path, extra: Mapping[str, str] | None = None) -> None:
        """Write a file that ``load`` reads; it appears complete or not at all.

        ``extra``: texts to keep beside the state; their names must not begin with ``wingbeat.``. Raises ValueError for
        such a name, OSError when the file cannot be written.
        """
        extra = dict(extra or {})
        if taken := [name for name in extra if name.startswith(_OURS)]:
            raise ValueError(f"names that begin with {_OURS!r} are taken: choose another for {taken[0]!r}")
        ours = {
            _VERSION: FILE_VERSION,
            _FINGERPRINT: self.fingerprint,
            _POSITION: str(self.position),
            _CHECKSUM: _checksum(self, extra),
        }
        save_safetensors(path, self.to_arrays(), {**ours, **extra})

    @classmethod
    def load(cls, path: str | Path) -> tuple[StateSnapshot, dict[str, str]]:
        """The state in a file that ``save`` wrote, and the texts that were kept beside it.

        Raises ValueError, saying what to do, for anything else: no such file, another kind of file, another version,
        a file that was cut short or altered. That the state is for the model in use is the engine's to check.
        """
        file = open_safetensors(Path(path))
        version = file.metadata.get(_VERSION)
        if version is None:
            raise ValueError(f"{path} is not a saved state: it lacks the mark that wingbeat puts there")
        if version != FILE_VERSION:
            raise ValueError(
                f"{path} holds a state in version {version!r} of the format, and this wingbeat reads {FILE_VERSION!r}: "
                "use the wingbeat that wrote it"
            )
        extra = {name: text for name, text in file.metadata.items() if not name.startswith(_OURS)}
        snapshot = _read(file)
        if snapshot is None or file.metadata.get(_CHECKSUM) != _checksum(snapshot, extra):
            raise ValueError(f"{path} was altered or damaged since it was saved: use another copy, or save it again")
        return snapshot, extra


def _read(file: Checkpoint) -> StateSnapshot | None:
    """What the file says; None when it cannot have been written by ``save``."""
    position = file.metadata.get(_POSITION, "")
    if not _DIGITS.fullmatch(position) or any(tensor.dtype != _FLOAT for tensor in file.values()):
        return None
    arrays = {name: tensor.read() for name, tensor in file.items()}
    return StateSnapshot.from_arrays(file.metadata.get(_FINGERPRINT, ""), int(position), arrays)


def _checksum(snapshot: StateSnapshot, extra: Mapping[str, str]) -> str:
    """SHA-256, in hexadecimal, of everything that the file says."""
    shapes = [[name, array.shape] for name, array in snapshot.arrays.items()]
    said = [FILE_VERSION, snapshot.fingerprint, snapshot.position, shapes, sorted(extra.items())]
    digest = hashlib.sha256(json.dumps(said).encode())
    for array in snapshot.arrays.values():
        digest.update(array.data)
    return digest.hexdigest()

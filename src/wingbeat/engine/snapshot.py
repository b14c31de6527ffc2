"""A sequence's state as a value: in a frame, in a file, and back in a slot.

The file is safetensors: one float32 tensor for each field of the state, one for the logits where they are known, and
metadata. This module's names, of tensors and in the metadata, begin with ``wingbeat.``; the others are the caller's.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from math import prod
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from wingbeat.formats.lazy import Checkpoint
from wingbeat.formats.safetensors import open_safetensors, save_safetensors

FILE_VERSION = "4"
READ_VERSIONS = ("1", "2", "3", FILE_VERSION)
"""Files of version 1 have neither logits nor a continuation; those of version 2 have nothing of mirostat and of
penalties that decay; those of version 3 have nothing of reasoning."""

MOST_GENERATED = 2**24
"""Tokens of an answer that goes on from a state."""

MOST_OF_TAG = 7
"""Bytes of a beginning of ``<think>`` or ``</think>``."""

MOST_UNDECODED = 3
"""Bytes of a character that is not complete."""

_OURS = "wingbeat."
_VERSION, _FINGERPRINT, _POSITION, _CHECKSUM, _CONTINUATION, _LOGITS = (
    _OURS + name for name in ("state", "fingerprint", "position", "checksum", "continuation", "logits")
)
_FLOAT = np.dtype("<f4")
_DIGITS = re.compile("[0-9]{1,18}")


class StateArray(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One field of a state: ``data`` holds little-endian float32 values of ``shape``, row-major."""

    shape: list[int]
    data: bytes

    @classmethod
    def of(cls, array: NDArray[np.float32]) -> StateArray:
        """A copy of ``array``, in whatever order that lies."""
        return cls(list(array.shape), array.astype(_FLOAT, order="C", copy=False).tobytes())

    def to_array(self, name: str) -> NDArray[np.float32]:
        """Read-only, of the same memory. Raises ValueError, with ``name``, when data and shape do not fit."""
        if any(n < 0 for n in self.shape) or len(self.data) != _FLOAT.itemsize * prod(self.shape):
            raise ValueError(f"state field {name!r} of {len(self.data)} bytes cannot have the shape {self.shape}")
        return np.frombuffer(self.data, _FLOAT).reshape(self.shape)


class Reasoned(msgspec.Struct, frozen=True, gc=False):
    """How far a reasoning with a budget had come: whether it has ``begun`` and is ``over``, the tokens ``used``, how
    many of those that close it are said, and the ``tail`` of the text, which may become a tag."""

    begun: bool = True
    over: bool = False
    used: int = 0
    closed: int = 0
    tail: bytes = b""

    @property
    def possible(self) -> bool:
        return 0 <= self.used < MOST_GENERATED and self.closed >= 0 and len(self.tail) <= MOST_OF_TAG


class Continuation(msgspec.Struct, frozen=True, gc=False):
    """What an answer needs, beside the state, to go on as if it had never stopped.

    ``seed`` and ``choice`` make its random numbers, together with the state's position. ``generated`` counts the tokens
    of the answer for the penalties, ``read`` are the different ones of its prompt, ``undecoded`` the bytes of a
    character that is not complete yet. ``last`` is the token that the state has seen last (-1: not known), ``weights``
    are those of the penalties where ``generated`` does not say them, ``mu`` is mirostat's value, ``reasoned`` how far a
    reasoning with a budget had come.
    """

    seed: int
    choice: int
    generated: dict[int, int] = {}
    read: list[int] = []
    undecoded: bytes = b""
    last: int = -1
    weights: dict[int, tuple[float, int]] = {}
    mu: float | None = None
    reasoned: Reasoned | None = None

    def possible(self, vocab_size: int) -> bool:
        """Whether a sampler may be told of this: a file may come from anywhere, and its checksum proves nothing."""
        counts = self.generated.values()
        return (
            all(0 <= token < vocab_size for token in (*self.generated, *self.read, *self.weights))
            and all(count > 0 for count in counts)
            and sum(counts) <= MOST_GENERATED
            and len(self.read) <= vocab_size
            and -(2**63) <= self.seed < 2**64
            and 0 <= self.choice < 2**31
            and len(self.undecoded) <= MOST_UNDECODED
            and -1 <= self.last < vocab_size
            and all(math.isfinite(weight) and 0 <= age < MOST_GENERATED for weight, age in self.weights.values())
            and (self.mu is None or math.isfinite(self.mu))
            and (self.reasoned is None or self.reasoned.possible)
        )


class StateSnapshot(msgspec.Struct, frozen=True, gc=False):
    """The memory of one sequence after ``position`` tokens, for the model of ``fingerprint`` alone.

    ``arrays`` are the fields of the model's ``StateLayout`` in canonical order and shape, whatever order a backend
    keeps them in. ``logits``, float32 [V], are what the model predicts next, where that is known. A sequence that
    begins from a snapshot goes on to the last bit as if it had never stopped: random draws too, which are counted by
    position. One with an empty prompt goes on with the same answer, by ``continuation``; one with a prompt begins
    another, for which penalties count anew.
    """

    fingerprint: str
    position: int
    arrays: dict[str, StateArray]
    logits: StateArray | None = None
    continuation: Continuation | None = None

    @classmethod
    def from_arrays(
        cls,
        fingerprint: str,
        position: int,
        arrays: Mapping[str, NDArray[np.float32]],
        logits: NDArray[np.float32] | None = None,
        continuation: Continuation | None = None,
    ) -> StateSnapshot:
        """A snapshot with copies of ``arrays``, by field name, and of ``logits``."""
        fields = {name: StateArray.of(array) for name, array in arrays.items()}
        predicted = None if logits is None else StateArray.of(logits)
        return cls(fingerprint, position, fields, predicted, continuation)

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """The fields as read-only arrays that share this snapshot's memory. Raises ValueError if one is malformed."""
        return {name: field.to_array(name) for name, field in self.arrays.items()}

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
        }
        if self.continuation is not None:
            ours[_CONTINUATION] = msgspec.json.encode(self.continuation).decode()
        ours[_CHECKSUM] = _checksum(self, extra, FILE_VERSION, ours.get(_CONTINUATION))
        arrays = self.to_arrays()
        if self.logits is not None:
            arrays[_LOGITS] = self.logits.to_array("logits")
        save_safetensors(path, arrays, {**ours, **extra})

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
        if version not in READ_VERSIONS:
            raise ValueError(
                f"{path} holds a state in version {version!r} of the format, and this wingbeat reads up to "
                f"{FILE_VERSION!r}: use the wingbeat that wrote it"
            )
        extra = {name: text for name, text in file.metadata.items() if not name.startswith(_OURS)}
        snapshot = _read(file)
        if snapshot is None or file.metadata.get(_CHECKSUM) != _checksum(
            snapshot, extra, version, file.metadata.get(_CONTINUATION)
        ):
            raise ValueError(f"{path} was altered or damaged since it was saved: use another copy, or save it again")
        return snapshot, extra


def _read(file: Checkpoint) -> StateSnapshot | None:
    """What the file says; None when it cannot have been written by ``save``."""
    position = file.metadata.get(_POSITION, "")
    if not _DIGITS.fullmatch(position) or any(tensor.dtype != _FLOAT for tensor in file.values()):
        return None
    arrays = {name: tensor.read() for name, tensor in file.items()}
    logits = arrays.pop(_LOGITS, None)
    said = file.metadata.get(_CONTINUATION)
    try:
        continuation = None if said is None else msgspec.json.decode(said, type=Continuation)
    except msgspec.DecodeError:
        return None
    return StateSnapshot.from_arrays(file.metadata.get(_FINGERPRINT, ""), int(position), arrays, logits, continuation)


def _checksum(snapshot: StateSnapshot, extra: Mapping[str, str], version: str, continuation: str | None) -> str:
    """SHA-256, in hexadecimal, of everything that the file says, the continuation in its own words."""
    shapes = [[name, array.shape] for name, array in snapshot.arrays.items()]
    said = [version, snapshot.fingerprint, snapshot.position, shapes, sorted(extra.items())]
    digest = hashlib.sha256(json.dumps(said).encode())
    for array in snapshot.arrays.values():
        digest.update(array.data)
    if snapshot.logits is not None:
        digest.update(b"logits" + snapshot.logits.data)
    if continuation is not None:
        digest.update(continuation.encode())
    return digest.hexdigest()

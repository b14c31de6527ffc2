"""The states that were used last, in memory: who goes on from one again and again does not wait for its file."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

from wingbeat.engine.snapshot import StateSnapshot

MOST_BYTES = 128 * 2**20


class KeptState(NamedTuple):
    """A state as its file holds it: with the texts beside it, and the SHA-256 of the file in hexadecimal."""

    snapshot: StateSnapshot
    extra: Mapping[str, str]
    checksum: str

    @property
    def nbytes(self) -> int:
        fields = [*self.snapshot.arrays.values(), *([self.snapshot.logits] if self.snapshot.logits else [])]
        return sum(len(field.data) for field in fields)


class RecentStates:
    """By checksum, up to `most` bytes."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most = most
        self._bytes = 0
        self._states: OrderedDict[str, KeptState] = OrderedDict()

    def put(self, state: KeptState) -> None:
        self.drop(state.checksum)
        self._states[state.checksum] = state
        self._bytes += state.nbytes
        while self._bytes > self._most:
            self.drop(next(iter(self._states)))

    def get(self, checksum: str) -> KeptState | None:
        state = self._states.get(checksum)
        if state is not None:
            self._states.move_to_end(checksum)
        return state

    def drop(self, checksum: str) -> None:
        state = self._states.pop(checksum, None)
        if state is not None:
            self._bytes -= state.nbytes

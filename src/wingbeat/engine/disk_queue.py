"""States that wait to be written to disk, and how many may be."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from wingbeat.engine.snapshot import StateSnapshot

MAX_STATES = 16
MAX_BYTES = 64 << 20
"""The queue takes a state while it is below either: 16 of a large model, or more of a small one."""

WRITE_BURST = 512 << 20
WRITE_RATE = 4 << 20
"""Bytes, and bytes a second: what is written outside sessions, at once and on average. A solid-state disk of a terabyte
is made for some 600 TB; at this rate, day and night, those take four and a half years. States of sessions are not
limited: there is one for each turn of a person."""


@dataclass(eq=False)
class Write:
    """A state to be written. ``sessions``: those that it is the last state of."""

    id: str
    origin: str
    tokens: bytes
    snapshot: StateSnapshot
    size: int
    sessions: set[str] = field(default_factory=set)

    @property
    def has_logits(self) -> bool:
        return self.snapshot.logits is not None


class WriteQueue:
    """Writes in the order they came, those of sessions first. The caller holds a lock."""

    def __init__(self) -> None:
        self._writes: dict[str, Write] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._writes)

    def get(self, id: str) -> Write | None:
        return self._writes.get(id)

    @property
    def full(self) -> bool:
        return len(self._writes) >= MAX_STATES and self._bytes >= MAX_BYTES

    def push(self, write: Write) -> None:
        """Also in place of an earlier one of the same state, which it then knows no less than."""
        earlier = self.remove(write.id)
        if earlier is not None:
            write.sessions |= earlier.sessions
            if earlier.has_logits and not write.has_logits:
                write.snapshot, write.size = earlier.snapshot, earlier.size
        self._writes[write.id] = write
        self._bytes += write.size

    def pop(self) -> Write | None:
        """The next to be written."""
        first = next((write for write in self._writes.values() if write.sessions), None)
        return self.remove((first or next(iter(self._writes.values()))).id) if self._writes else None

    def remove(self, id: str) -> Write | None:
        write = self._writes.pop(id, None)
        self._bytes -= 0 if write is None else write.size
        return write

    def give_way(self) -> str | None:
        """Take out the last write that is of no session, for one that is; its id."""
        last = next((write.id for write in reversed(self._writes.values()) if not write.sessions), None)
        if last is not None:
            self.remove(last)
        return last

    def release(self, session: str, to: str | None = None) -> str | None:
        """The session's last state is ``to`` now, or none: the id of the write that nothing wants any more."""
        for write in self._writes.values():
            if session in write.sessions and write.id != to:
                write.sessions.remove(session)
                if not write.sessions:
                    self.remove(write.id)
                    return write.id
                return None
        return None

    def clear(self) -> list[str]:
        ids = list(self._writes)
        self._writes.clear()
        self._bytes = 0
        return ids


class WriteAllowance:
    """A token bucket of bytes, see ``WRITE_RATE``."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left = float(WRITE_BURST)
        self._counted = clock()

    def has(self, size: int) -> bool:
        """Whether ``size`` more bytes may be written now."""
        now = self._clock()
        self._left = min(WRITE_BURST, self._left + (now - self._counted) * WRITE_RATE)
        self._counted = now
        return size <= self._left

    def take(self, size: int) -> bool:
        """Whether ``size`` more bytes may be written now; then they count."""
        allowed = self.has(size)
        if allowed:
            self._left -= size
        return allowed

"""What the engine's thread and those that work on the disk know together."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from wingbeat.engine.disk_queue import Write, WriteQueue

PAUSE = 60.0
"""Seconds without writes after a disk was full or could not be written."""

TOUCH_SECONDS = 5.0
"""How long uses are collected before they go into the index together."""

log = logging.getLogger(__name__)


class Known(NamedTuple):
    """What a state must have that is read, as far as its id does not say it."""

    position: int
    logits: bool


class Changes(NamedTuple):
    """States to delete, sessions whose last ones to delete, and how often states were used."""

    drops: set[str]
    forgets: set[str]
    uses: Counter[str]


class Ledger:
    """Plain fields, read and changed under the lock of ``changed``, which also wakes the thread that writes.

    Methods whose names say nothing of the lock want it held.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.known: dict[str, Known] = {}  # states that can be had: on disk, being written, or waiting
        self.queue = WriteQueue()
        self.writing: Write | None = None
        self.changes = Changes(set(), set(), Counter())
        self.gone: list[str] = []
        self.totals: tuple[int, int] = (0, 0)  # states in the folder, and their bytes
        self.failing = False  # the last write failed, and that was logged
        self.paused_until = 0.0
        self.closing = False
        self._count_at = 0.0  # when the uses go into the index
        self._settle_at = 0.0  # no changes do sooner, since it failed
        self._messages: list[tuple[int, str]] = []

    def waiting(self, id: str) -> Write | None:
        """The write of this state, unless it is done."""
        if (write := self.queue.get(id)) is not None:
            return write
        return self.writing if self.writing is not None and self.writing.id == id else None

    def lose(self, ids: Iterable[str]) -> None:
        """These cannot be had any more."""
        for id in ids:
            if self.known.pop(id, None) is not None:
                self.gone.append(id)

    def lose_writing(self) -> None:
        """The write that is under way came to nothing."""
        if self.writing is not None and self.queue.get(self.writing.id) is None:
            self.lose([self.writing.id])

    def count(self, id: str) -> None:
        """The state was used."""
        if not self.changes.uses:
            self._count_at = time.monotonic() + TOUCH_SECONDS
        self.changes.uses[id] += 1

    def seconds_to_changes(self) -> float | None:
        """How long until the index should hear of the changes; None where there are none."""
        if not any(self.changes):
            return None
        at_once = self.closing or self.changes.drops or self.changes.forgets
        return (self._settle_at if at_once else max(self._settle_at, self._count_at)) - time.monotonic()

    def take_changes(self) -> Changes:
        taken, self.changes = self.changes, Changes(set(), set(), Counter())
        return taken

    def put_back(self, changes: Changes) -> None:
        """They failed. What should be deleted must be, some time; uses do not matter so much."""
        self.changes.drops.update(changes.drops)
        self.changes.forgets.update(changes.forgets)
        self._settle_at = time.monotonic() + PAUSE

    def pause(self) -> None:
        """Write nothing for a while, and let nothing wait that long in memory."""
        self.paused_until = time.monotonic() + PAUSE
        self.lose(self.queue.clear())

    @property
    def paused(self) -> bool:
        return time.monotonic() < self.paused_until

    def say(self, level: int, text: str) -> None:
        """For the engine's thread to log: the way from there to the user is not for other threads. Takes the lock."""
        with self.changed:
            self._messages.append((level, text))

    def log_messages(self) -> None:
        """Log what was said. Takes the lock."""
        with self.changed:
            messages, self._messages = self._messages, []
        for level, text in messages:
            log.log(level, "%s", text)

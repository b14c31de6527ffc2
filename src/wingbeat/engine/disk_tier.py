"""States on disk, behind those in memory: an index in SQLite and a file for each.

The engine's thread never waits for the disk: one thread writes and keeps the index, another reads. Whatever goes wrong
there costs a state, which is then read from its tokens again, and a line in the log.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from wingbeat.engine.disk_files import state_id
from wingbeat.engine.disk_index import is_busy, is_damage
from wingbeat.engine.disk_queue import Write, WriteAllowance, WriteQueue
from wingbeat.engine.disk_store import DiskStore
from wingbeat.engine.snapshot import StateSnapshot

PAUSE = 60.0
"""Seconds without writes after a disk was full or could not be written."""

TOUCH_SECONDS = 5.0
"""How long uses are collected before they go into the index together."""

HEADER = 1024
"""Bytes of a file beside the numbers, about."""

log = logging.getLogger(__name__)

Message = tuple[int, str]


class Stored(NamedTuple):
    """A state on disk, that of a sequence which began from ``origin`` and has seen ``tokens`` (int32 little-endian).

    ``session`` is one that it is the last state of. ``logits``: whether the snapshot has them, so far as is known.
    """

    id: str
    origin: str
    tokens: bytes
    session: str | None
    logits: bool = False


class _Known(NamedTuple):
    position: int
    logits: bool


class DiskTier:
    """The states of one model in a folder that also holds those of others, within a budget for all of them.

    For one thread, the engine's; nothing but the constructor and ``close`` waits for the disk, and nothing else raises.
    Several servers may use one folder. Ids that were given out stay good until ``gone`` names them; a state can vanish
    earlier, which ``get`` then tells.
    """

    def __init__(self, folder: Path, budget: int, model: str) -> None:
        """``budget``: bytes of all files. ``model`` names weights, precision and kernels: others' states do not fit.

        Raises ValueError when ``folder`` is a file or lies in one. Any other trouble is for the log.
        """
        if not _may_be_folder(folder):
            raise ValueError(
                f"cache_dir {folder} cannot be a folder, because there is a file of that name or above it: name"
                " another, or set cache_disk_mb to 0"
            )
        self._folder, self._budget, self._model = folder, budget, model
        self._store = DiskStore(folder, budget, model)
        self._allowance = WriteAllowance()
        # What the threads share, under the lock of _changed:
        self._changed = threading.Condition()
        self._queue = WriteQueue()
        self._writing: Write | None = None
        self._known: dict[str, _Known] = {}
        self._drops: set[str] = set()
        self._forgets: set[str] = set()
        self._uses: Counter[str] = Counter()
        self._count_at = 0.0  # when the uses go into the index
        self._settle_at = 0.0  # no sooner, since it failed
        self._gone: list[str] = []
        self._messages: list[Message] = []
        self._failing = False
        self._paused_until = 0.0
        self._closing = False
        self._totals = (0, 0)

        self._stored: list[Stored] = []
        self._attempt(self._look)
        self._log_messages()
        self._reads: SimpleQueue[tuple[str, int, Future[StateSnapshot | None]] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._run_writes, self._run_reads)]
        for thread in self._threads:
            thread.start()

    # The engine's side.

    @property
    def states(self) -> int:
        """How many there are in the folder, of all models, by this server's last look."""
        return self._totals[0]

    @property
    def bytes(self) -> int:
        """Their size."""
        return self._totals[1]

    def load(self) -> list[Stored]:
        """What was there for this model at the start; the second time nothing."""
        stored, self._stored = self._stored, []
        return stored

    def accepts(self, size: int, session: str | None) -> bool:
        """Whether ``put`` is worth the making of a snapshot of so many bytes."""
        with self._changed:
            if self._closing or size > self._budget or time.monotonic() < self._paused_until:
                return False
            return session is not None or not (self._queue.full or not self._allowance.has(size))

    def put(self, origin: str, tokens: bytes, snapshot: StateSnapshot, session: str | None) -> str | None:
        """Write the state some time; its id. It takes the place of the session's earlier one.

        None when it is not taken: too much waits, or was written lately, or the disk was full or failed.
        """
        size = _size(snapshot)
        with self._changed:
            if self._closing or size > self._budget or time.monotonic() < self._paused_until:
                return None
            id = state_id(self._model, origin, tokens)
            known = self._known.get(id)
            if session is None and known is not None and known.logits >= (snapshot.logits is not None):
                return id
            if session is None and (self._queue.full or not self._allowance.take(size)):
                return None
            if self._queue.full and not self._displace():
                return None
            self._enqueue(Write(id, origin, tokens, snapshot, size), session)
            return id

    def get(self, id: str) -> Future[StateSnapshot | None]:
        """The state, read in another thread; None when it is gone or damaged, which drops it."""
        future: Future[StateSnapshot | None] = Future()
        with self._changed:
            known = self._known.get(id)
            write = self._queue.get(id) or (self._writing if self._writing and self._writing.id == id else None)
            if write is not None and known is not None:
                future.set_result(write.snapshot)
            elif known is None or self._closing:
                future.set_result(None)
            else:
                self._reads.put((id, known.position, future))
        return future

    def touch(self, id: str) -> None:
        """The state was used."""
        with self._changed:
            if not self._uses:
                self._count_at = time.monotonic() + TOUCH_SECONDS
            self._uses[id] += 1
            self._changed.notify()

    def drop(self, ids: Iterable[str]) -> None:
        """Delete these states."""
        with self._changed:
            for id in ids:
                self._queue.remove(id)
                self._known.pop(id, None)
                self._drops.add(id)
            self._changed.notify()

    def forget(self, session: str) -> None:
        """Delete the last state of this session, from whatever run, unless it is also that of another."""
        with self._changed:
            self._forgets.add(session)
            if (id := self._queue.release(session)) is not None:
                self._drops.add(id)
                self._lose([id])
            self._changed.notify()

    def gone(self) -> list[str]:
        """The ids that were lost since the last call. Also logs, here, what the threads have to say."""
        self._log_messages()
        with self._changed:
            gone, self._gone = self._gone, []
        return gone

    def close(self, seconds: float) -> None:
        """Write what waits, for so long at most; take nothing more."""
        until = time.monotonic() + seconds
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._reads.put(None)
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        with self._changed:
            self._queue.clear()
        self._log_messages()

    def _enqueue(self, write: Write, session: str | None) -> None:
        self._queue.push(write)
        if session is not None:
            write.sessions.add(session)
            if (before := self._queue.release(session, to=write.id)) is not None:
                self._lose([before])
        known = self._known.get(write.id)
        has_logits = write.has_logits or (known is not None and known.logits)
        self._known[write.id] = _Known(write.snapshot.position, has_logits)
        self._changed.notify()

    def _displace(self) -> bool:
        """Make room in the queue for the state of a session."""
        last = self._queue.give_way()
        if last is not None:
            self._lose([last])
        return last is not None

    def _lose(self, ids: Iterable[str]) -> None:
        """Under the lock: these cannot be had any more."""
        for id in ids:
            if self._known.pop(id, None) is not None:
                self._gone.append(id)

    def _log_messages(self) -> None:
        with self._changed:
            messages, self._messages = self._messages, []
        for level, text in messages:
            log.log(level, "%s", text)

    # The thread that reads.

    def _run_reads(self) -> None:
        while (job := self._reads.get()) is not None:
            id, position, future = job
            if future.set_running_or_notify_cancel():
                future.set_result(self._read(id, position))

    def _read(self, id: str, position: int) -> StateSnapshot | None:
        said: Message | None = None
        try:
            snapshot = self._store.files.read(id, position)
        except Exception as error:  # a file may hold anything
            snapshot = None
            said = (logging.WARNING, f"a cached state is dropped, and made again when it is needed: {error}")
        if snapshot is None:
            with self._changed:
                self._lose([id])
                self._drops.add(id)
                self._messages += [said] if said else []
                self._changed.notify()
        return snapshot

    # The thread that writes.

    def _run_writes(self) -> None:
        self._attempt(self._tidy)
        while (job := self._next()) is not None:
            self._attempt(job)
        self._store.close()

    def _next(self) -> Callable[[], None] | None:
        """What to do, as soon as there is something; None when all is done."""
        with self._changed:
            self._writing = None
            while True:
                now = time.monotonic()
                due = self._due()
                if due is not None and (self._settle_at if self._closing else due) <= now:
                    return self._settle
                self._writing = self._queue.pop()
                if self._writing is not None:
                    return self._write
                if self._closing:
                    return None
                self._changed.wait(None if due is None else due - now)

    def _due(self) -> float | None:
        """When the index should hear of what was dropped, forgotten and used."""
        if self._drops or self._forgets:
            return self._settle_at
        return max(self._settle_at, self._count_at) if self._uses else None

    def _look(self) -> None:
        """See what is there, at the start."""
        entries, damaged = self._store.entries()
        self._known = {entry.id: _Known(entry.position, entry.logits) for entry, _ in entries}
        self._stored = [
            Stored(entry.id, entry.origin, entry.tokens, session, entry.logits) for entry, session in entries
        ]
        if damaged:
            self._say(logging.WARNING, f"{damaged} entries of the index in {self._folder} were damaged and are dropped")

    def _tidy(self) -> None:
        lost = self._store.tidy()
        with self._changed:
            self._lose(lost)

    def _write(self) -> None:
        write = self._writing
        assert write is not None
        try:
            kept, lost = self._store.write(write)
        except BaseException:
            with self._changed:
                self._lose_writing()
            raise
        with self._changed:
            self._lose(lost)
            if not kept:
                self._lose_writing()
            failed, self._failing = self._failing, False
        if failed:
            self._say(logging.INFO, f"states are kept in {self._folder} again")

    def _settle(self) -> None:
        with self._changed:
            drops, forgets, uses = self._drops, self._forgets, self._uses
            self._drops, self._forgets, self._uses = set(), set(), Counter()
        try:
            lost = self._store.settle(drops, forgets, uses)
        except BaseException:
            with self._changed:  # what should be deleted must be, some time; uses do not matter so much
                self._drops |= drops
                self._forgets |= forgets
                self._settle_at = time.monotonic() + PAUSE
            raise
        with self._changed:
            self._lose(lost)

    def _attempt(self, job: Callable[[], None]) -> None:
        """Run what may fail in any way that a disk can."""
        try:
            job()
            self._totals = self._store.totals()
        except sqlite3.Error as error:
            if is_damage(error):
                self._begin_anew(str(error))
            elif is_busy(error):
                self._say(logging.WARNING, f"the index in {self._folder} was locked for too long: it lacks a change")
            else:
                self._pause(error)
        except OSError as error:
            self._pause(error)
        except Exception as error:  # a malformed snapshot, no memory: this state alone
            self._say(logging.WARNING, f"a state could not be kept in {self._folder}: {error or type(error).__name__}")
        if why := self._store.renewed():
            self._say(logging.WARNING, f"the index in {self._folder} was damaged ({why}): the states there are dropped")

    def _begin_anew(self, why: str) -> None:
        try:
            self._store.begin_anew(why)
        except OSError as error:
            self._pause(error)
        with self._changed:
            self._lose([id for id in self._known if self._queue.get(id) is None])

    def _pause(self, error: Exception) -> None:
        """Write nothing for a while, and let nothing wait that long in memory."""
        with self._changed:
            self._paused_until = time.monotonic() + PAUSE
            self._lose(self._queue.clear())
            failed, self._failing = self._failing, True
        if not failed:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            self._say(
                logging.WARNING,
                f"states are not kept in {self._folder} for now ({reason}): free space there, or name another folder in"
                " cache_dir; all else goes on",
            )

    def _lose_writing(self) -> None:
        if self._writing is not None and self._queue.get(self._writing.id) is None:
            self._lose([self._writing.id])

    def _say(self, level: int, text: str) -> None:
        """For the engine's thread to log: the way from there to the user is not for other threads."""
        with self._changed:
            self._messages.append((level, text))


def _size(snapshot: StateSnapshot) -> int:
    """Bytes of its file, about."""
    arrays = [*snapshot.arrays.values(), *filter(None, [snapshot.logits])]
    return HEADER + sum(len(array.data) for array in arrays)


def _may_be_folder(path: Path) -> bool:
    """Whether it is a folder, or there is nothing of that name, and the same of what it lies in."""
    nearest = next((place for place in (path, *path.absolute().parents) if os.path.lexists(place)), path)
    return nearest.is_dir() or not os.path.lexists(nearest)

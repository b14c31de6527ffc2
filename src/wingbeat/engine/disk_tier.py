"""States on disk, behind those in memory: an index in SQLite and a file for each.

The engine's thread never waits for the disk: one thread writes and keeps the index, another reads. Whatever goes wrong
there costs a state, which is then read from its tokens again, and a line in the log.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from wingbeat.engine.disk_files import StateFiles, state_id
from wingbeat.engine.disk_ledger import Known, Ledger
from wingbeat.engine.disk_queue import Write, WriteAllowance
from wingbeat.engine.disk_store import DiskStore
from wingbeat.engine.disk_writer import DiskWriter
from wingbeat.engine.snapshot import StateSnapshot

HEADER = 1024
"""Bytes of a file beside the numbers, about."""


class Stored(NamedTuple):
    """A state on disk, that of a sequence which began from ``origin`` and has seen ``tokens`` (int32 little-endian).

    ``session`` is one that it is the last state of. ``logits``: whether the snapshot has them, so far as is known.
    """

    id: str
    origin: str
    tokens: bytes
    session: str | None
    logits: bool = False


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
        self._budget, self._model = budget, model
        self._files = StateFiles(folder)
        self._allowance = WriteAllowance()
        self._ledger = Ledger()
        self._changed = self._ledger.changed
        writer = DiskWriter(folder, DiskStore(self._files, folder, budget, model), self._ledger)
        self._stored = [
            Stored(entry.id, entry.origin, entry.tokens, session, entry.logits) for entry, session in writer.look()
        ]
        self._ledger.log_messages()
        self._reads: SimpleQueue[tuple[str, int, Future[StateSnapshot | None]] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (writer.run, self._run_reads)]
        for thread in self._threads:
            thread.start()

    @property
    def states(self) -> int:
        """How many there are in the folder, of all models, by this server's last look."""
        return self._ledger.totals[0]

    @property
    def bytes(self) -> int:
        """Their size."""
        return self._ledger.totals[1]

    def load(self) -> list[Stored]:
        """What was there for this model at the start; the second time nothing."""
        stored, self._stored = self._stored, []
        return stored

    def accepts(self, size: int, session: str | None) -> bool:
        """Whether ``put`` is worth the making of a snapshot of so many bytes."""
        with self._changed:
            if self._ledger.closing or self._ledger.paused or size > self._budget:
                return False
            return session is not None or (not self._ledger.queue.full and self._allowance.has(size))

    def put(self, origin: str, tokens: bytes, snapshot: StateSnapshot, session: str | None) -> str | None:
        """Write the state some time; its id. It takes the place of the session's earlier one.

        None when it is not taken: too much waits, or was written lately, or the disk was full or failed.
        """
        size = _size(snapshot)
        ledger = self._ledger
        with self._changed:
            if ledger.closing or ledger.paused or size > self._budget:
                return None
            write = Write(state_id(self._model, origin, tokens), origin, tokens, snapshot, size)
            if session is None:
                known = ledger.known.get(write.id)
                if known is not None and known.logits >= write.has_logits:
                    return write.id
                if ledger.queue.full or not self._allowance.take(size):
                    return None
            elif ledger.queue.full and not self._displace():
                return None
            self._enqueue(write, session)
            return write.id

    def get(self, id: str) -> Future[StateSnapshot | None]:
        """The state, read in another thread; None when it is gone or damaged, which drops it."""
        future: Future[StateSnapshot | None] = Future()
        with self._changed:
            known, write = self._ledger.known.get(id), self._ledger.waiting(id)
            if known is None or self._ledger.closing:
                future.set_result(None)
            elif write is not None:
                future.set_result(write.snapshot)
            else:
                self._reads.put((id, known.position, future))
        return future

    def touch(self, id: str) -> None:
        """The state was used."""
        with self._changed:
            self._ledger.count(id)
            self._changed.notify()

    def drop(self, ids: Iterable[str]) -> None:
        """Delete these states."""
        with self._changed:
            for id in ids:
                self._ledger.queue.remove(id)
                self._ledger.known.pop(id, None)
                self._ledger.changes.drops.add(id)
            self._changed.notify()

    def forget(self, session: str) -> None:
        """Delete the last state of this session, from whatever run, unless it is also that of another."""
        with self._changed:
            self._ledger.changes.forgets.add(session)
            if (id := self._ledger.queue.release(session)) is not None:
                self._ledger.changes.drops.add(id)
                self._ledger.lose([id])
            self._changed.notify()

    def gone(self) -> list[str]:
        """The ids that were lost since the last call. Also logs, here, what the threads have to say."""
        self._ledger.log_messages()
        with self._changed:
            gone, self._ledger.gone = self._ledger.gone, []
        return gone

    def close(self, seconds: float) -> None:
        """Write what waits, for so long at most; take nothing more."""
        until = time.monotonic() + seconds
        with self._changed:
            self._ledger.closing = True
            self._changed.notify()
        self._reads.put(None)
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        with self._changed:
            self._ledger.queue.clear()
        self._ledger.log_messages()

    def _enqueue(self, write: Write, session: str | None) -> None:
        ledger = self._ledger
        ledger.queue.push(write)
        if session is not None:
            write.sessions.add(session)
            if (before := ledger.queue.release(session, to=write.id)) is not None:
                ledger.lose([before])
        known = ledger.known.get(write.id)
        has_logits = write.has_logits or (known is not None and known.logits)
        ledger.known[write.id] = Known(write.snapshot.position, has_logits)
        self._changed.notify()

    def _displace(self) -> bool:
        """Make room in the queue for the state of a session."""
        last = self._ledger.queue.give_way()
        if last is not None:
            self._ledger.lose([last])
        return last is not None

    def _run_reads(self) -> None:
        """The thread that reads."""
        while (job := self._reads.get()) is not None:
            id, position, future = job
            if future.set_running_or_notify_cancel():
                future.set_result(self._read(id, position))

    def _read(self, id: str, position: int) -> StateSnapshot | None:
        snapshot = None
        try:
            snapshot = self._files.read(id, position)
        except Exception as error:  # a file may hold anything
            self._ledger.say(logging.WARNING, f"a cached state is dropped, and made again when it is needed: {error}")
        if snapshot is None:
            with self._changed:
                self._ledger.lose([id])
                self._ledger.changes.drops.add(id)
                self._changed.notify()
        return snapshot


def _size(snapshot: StateSnapshot) -> int:
    """Bytes of its file, about."""
    arrays = [*snapshot.arrays.values(), *filter(None, [snapshot.logits])]
    return HEADER + sum(len(array.data) for array in arrays)


def _may_be_folder(path: Path) -> bool:
    """Whether it is a folder, or there is nothing of that name, and the same of what it lies in."""
    nearest = next((place for place in (path, *path.absolute().parents) if os.path.lexists(place)), path)
    return nearest.is_dir() or not os.path.lexists(nearest)

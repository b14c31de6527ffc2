"""The index of the states on disk: one SQLite database, shared by all servers that use the folder.

It is a cache of a cache: when it is damaged it begins anew. A state is in it only once its file is whole.
"""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

VERSION = 1
BUSY_SECONDS = 5.0
"""How long to wait for another server's transaction. Those take milliseconds."""

HALF_LIFE = 86400.0
"""Seconds without use after which a state is worth half. A prompt of today beats one of yesterday that is not twice as
long; one that was used a thousand times stays ten days longer than one that was used once."""

SCHEMA = """
CREATE TABLE states (
    id TEXT PRIMARY KEY, model TEXT NOT NULL, origin TEXT NOT NULL, position INTEGER NOT NULL, logits INTEGER NOT NULL,
    bytes INTEGER NOT NULL, length INTEGER NOT NULL, hits INTEGER NOT NULL, worth REAL NOT NULL, tokens BLOB NOT NULL);
CREATE TABLE sessions (
    session TEXT PRIMARY KEY, id TEXT NOT NULL REFERENCES states(id) ON DELETE CASCADE);
CREATE INDEX sessions_by_id ON sessions(id);
"""

_NOT_DAMAGE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_READONLY,
}


class Entry(NamedTuple):
    """A state that a file holds. ``tokens``: int32 little-endian; ``size``: the file's size."""

    id: str
    model: str
    origin: str
    tokens: bytes
    position: int
    logits: bool
    size: int


class Found(NamedTuple):
    size: int
    logits: bool


def _code(error: sqlite3.Error) -> int:
    """SQLite's result code without its details; SQLITE_ERROR where there is none."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def is_damage(error: sqlite3.Error) -> bool:
    """Whether ``error`` says that the database is not as it should be, and not that the disk or a lock is."""
    return _code(error) not in _NOT_DAMAGE


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another process held the lock for longer than ``BUSY_SECONDS``."""
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def worth(length: int, hits: int, size: int, used: float) -> float:
    """Value per byte, log2(tokens saved x uses x 2^(-age / half-life) / bytes) but for a term that all states share.

    The age is now - used, and now is the same for all: so the order never changes while time passes, and is stored.
    """
    return math.log2(max(1, length) * (1 + hits) / max(1, size)) + used / HALF_LIFE


class DiskIndex:
    """The database at ``path``, made when it is not there. For one thread at a time.

    Every method may raise sqlite3.Error, see ``is_damage``, and changes all that it should or nothing. Ids that methods
    return have lost their rows: their files can go.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with contextlib.suppress(FileExistsError):  # SQLite would make it, and the files beside it, for all to read
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        self._db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            self._file = os.stat(path).st_ino
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        self._db.create_function("worth", 4, worth, deterministic=True)
        self._log_ahead()
        # A failure of power may undo the last transactions in the log but leaves the database whole: right for a cache,
        # and a tenth of the waits for the disk.
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA foreign_keys = ON")
        with self._transaction():
            if self._one("SELECT count(*) FROM sqlite_master") == 0:
                for statement in filter(str.strip, SCHEMA.split(";")):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {VERSION}")
        found = self._one("PRAGMA user_version")
        if found != VERSION:
            raise sqlite3.DatabaseError(f"it has version {found}, and this wingbeat reads {VERSION}")
        if (said := self._one("PRAGMA quick_check(1)")) != "ok":
            raise sqlite3.DatabaseError(str(said).splitlines()[-1])
        self._db.execute("SELECT id, model, origin, position, logits, bytes, length, hits, worth, tokens FROM states")

    def _log_ahead(self) -> None:
        """Readers and writers then do not wait for each other. SQLite itself does not wait here for another process."""
        until = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if not is_busy(error) or time.monotonic() > until:
                    raise
                time.sleep(0.02)

    @property
    def stale(self) -> bool:
        """Whether the file at the path is another by now, or gone: the folder was emptied, the index begun anew."""
        try:
            return os.stat(self._path).st_ino != self._file
        except OSError:
            return True

    def entries(self, model: str) -> list[tuple[Entry, str | None]]:
        """The states for ``model``, each with a session that it is the last state of, if any."""
        rows = self._db.execute(
            "SELECT id, model, origin, tokens, position, logits, bytes,"
            " (SELECT min(session) FROM sessions WHERE sessions.id = states.id) FROM states WHERE model = ?",
            (model,),
        )
        return [
            (Entry(id, model, origin, tokens, position, bool(logits), size), session)
            for id, model, origin, tokens, position, logits, size, session in rows
        ]

    def ids(self) -> set[str]:
        return {id for (id,) in self._db.execute("SELECT id FROM states")}

    def find(self, id: str) -> Found | None:
        """The size of the state's file, and whether it has logits."""
        row = self._db.execute("SELECT bytes, logits FROM states WHERE id = ?", (id,)).fetchone()
        return None if row is None else Found(row[0], bool(row[1]))

    def totals(self) -> tuple[int, int]:
        """How many states there are, of all models, and the bytes of their files."""
        return self._db.execute("SELECT count(*), coalesce(sum(bytes), 0) FROM states").fetchone()

    def add(self, entry: Entry, sessions: Iterable[str]) -> list[str]:
        """The state has its file now, and is the last one of ``sessions``. Returns those that this replaces."""
        length = len(entry.tokens) // 4
        new = worth(length, 0, entry.size, time.time())
        with self._transaction():
            self._db.execute(
                "INSERT INTO states (id, model, origin, position, logits, bytes, length, hits, worth, tokens)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET logits = excluded.logits, bytes = excluded.bytes,"
                " worth = max(worth, excluded.worth)",
                (*entry[:3], entry.position, entry.logits, entry.size, length, new, entry.tokens),
            )
            return self._hand(sessions, entry.id)

    def claim(self, id: str, sessions: Iterable[str]) -> list[str]:
        """The state, which is there, is the last one of ``sessions``. Returns those that this replaces."""
        with self._transaction():
            return self._hand(sessions, id)

    def touch(self, uses: Mapping[str, int]) -> None:
        """These states were used so many times since the last call."""
        now = time.time()
        with self._transaction():
            self._db.executemany(
                "UPDATE states SET hits = hits + ?1, worth = worth(length, hits + ?1, bytes, ?2) WHERE id = ?3",
                [(n, now, id) for id, n in uses.items()],
            )

    def remove(self, ids: Iterable[str]) -> None:
        with self._transaction():
            self._delete(ids)

    def forget(self, sessions: Iterable[str]) -> list[str]:
        """Remove the states of ``sessions``, but for those that are also the last one of another."""
        with self._transaction():
            held = [id for session in sessions if (id := self._release(session)) is not None]
            return self._delete_unheld(held)

    def make_room(self, size: int, budget: int, least: float) -> list[str] | None:
        """Remove the states of least worth until ``size`` more bytes stay within ``budget``, those of sessions last.

        ``least`` is the worth of what comes: None, and nothing is removed, when it takes a state that is worth more, or
        one of a session. With infinity everything may go.
        """
        with self._transaction():
            excess = self.totals()[1] + size - budget
            if excess <= 0:
                return []
            victims = []
            ordered = (
                "SELECT id, bytes, worth, id IN (SELECT id FROM sessions) AS held FROM states ORDER BY held, worth"
            )
            for id, taken, value, held in self._db.execute(ordered):
                if (held or value > least) and least != math.inf:
                    return None
                victims.append(id)
                excess -= taken
                if excess <= 0:
                    break
            self._delete(victims)
            return victims

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._db.close()

    def _hand(self, sessions: Iterable[str], id: str) -> list[str]:
        before = []
        for session in sessions:
            before.append(self._release(session))
            self._db.execute("INSERT INTO sessions (session, id) VALUES (?, ?)", (session, id))
        return self._delete_unheld(old for old in before if old is not None)

    def _release(self, session: str) -> str | None:
        row = self._db.execute("SELECT id FROM sessions WHERE session = ?", (session,)).fetchone()
        self._db.execute("DELETE FROM sessions WHERE session = ?", (session,))
        return None if row is None else row[0]

    def _delete_unheld(self, ids: Iterable[str]) -> list[str]:
        held = "SELECT count(*) FROM sessions WHERE id = ?"
        free = [id for id in dict.fromkeys(ids) if self._one(held, id) == 0]
        self._delete(free)
        return free

    def _delete(self, ids: Iterable[str]) -> None:
        self._db.executemany("DELETE FROM states WHERE id = ?", [(id,) for id in ids])

    def _one(self, statement: str, *values: str) -> int | str:
        return self._db.execute(statement, values).fetchone()[0]

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing. It takes the lock for writing at once: one that was taken later might not be waited for."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise


def open_index(path: Path) -> tuple[DiskIndex, str]:
    """The index at ``path``, and what was wrong with the one that was there: then it is moved aside and begun anew.

    Raises OSError and sqlite3.Error when the folder or the disk does not allow it.
    """
    try:
        return DiskIndex(path), ""
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
        set_aside(path)
        return DiskIndex(path), str(error)


def set_aside(path: Path) -> None:
    """Rename the index, so that another can take its place. Raises OSError."""
    for suffix in ("-wal", "-shm"):  # of the old one: the new one must not find them
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        path.replace(f"{path}.damaged")

"""A SQLite file that outlives the server: every commit is on the disk, and a damaged file costs its content only.

All work is done in one thread of its own, in order, so that the event loop never waits for a disk. Several servers may
share a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import structlog

BUSY_SECONDS = 3.0
"""How long work waits for another process that writes."""

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_BESIDE = ("", "-wal", "-shm")
"""What SQLite adds to a file's name for those that belong to it."""

NO_UPGRADES: Mapping[int, str] = MappingProxyType({})

log = structlog.get_logger("wingbeat.services")

T = TypeVar("T")


class StorageError(Exception):
    """What is kept cannot be read or written now: a full disk, a locked or damaged file. The message says which."""


class Database:
    """One file, opened when it is first needed, and again after whatever went wrong with it.

    ``schema``: statements that make the tables. ``version``: of the schema. ``upgrades``: for earlier versions, the
    statements that make a file of it one of the next. A file of any other version is left alone and refused.
    """

    def __init__(self, path: Path, schema: str, version: int, upgrades: Mapping[int, str] = NO_UPGRADES) -> None:
        self.path = path
        self._schema = schema
        self._version = version
        self._upgrades = upgrades
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None  # device and inode of the file that is open
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=path.stem)

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What ``work`` returns, from the file's thread. Raises StorageError, and whatever else ``work`` raises.

        Done to its end also when who asked is cancelled.
        """
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, self._run, work))

    async def close(self) -> None:
        """Close the file, when all work is done."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            connection = self._connection or self._open()
            return work(connection)
        except sqlite3.DatabaseError as error:
            if _code(error) in _DAMAGED:
                self._move_aside(error)
                raise StorageError("the file was damaged, and a new one is begun") from error
            raise self._failure(str(error)) from error
        except OSError as error:
            raise self._failure(error.strerror or str(error)) from error

    def _failure(self, reason: str) -> StorageError:
        """For the client, which need not know where the file is; the log says that."""
        log.error("a database cannot be used", path=str(self.path), error=reason)
        return StorageError(reason)

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            connection = self._connect()
        except sqlite3.DatabaseError as error:
            if _code(error) not in _DAMAGED:
                raise
            self._move_aside(error)
            connection = self._connect()
        self._connection, self._opened = connection, _identity(self.path)
        return connection

    def _connect(self) -> sqlite3.Connection:
        """The file, opened and checked. Raises sqlite3.DatabaseError."""
        if not self.path.exists():
            os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600))  # what is in it is nobody else's to read
        connection = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=32
        )
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")  # a commit survives a power failure
            connection.execute("PRAGMA foreign_keys = ON")
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                damage = sqlite3.DatabaseError(found)
                damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
                raise damage
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        with transaction(connection):
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                _execute(connection, self._schema)
                version = self._version
            while version in self._upgrades:
                _execute(connection, self._upgrades[version])
                version += 1
            if version != self._version:
                raise self._failure("it belongs to another version of wingbeat: use that, or another data folder")
            connection.execute(f"PRAGMA user_version = {version}")

    def _move_aside(self, error: sqlite3.DatabaseError) -> None:
        """Give the damaged file another name, unless another process has done so."""
        opened = self._opened
        self._close()
        if opened is not None and opened != _identity(self.path):
            return
        aside = f"{self.path}.damaged-{time.time_ns()}"
        for ending in _BESIDE:
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{self.path}{ending}", f"{aside}{ending}")
        log.error("a damaged database was moved aside; a new one is begun", moved_to=aside, error=str(error))

    def _close(self) -> None:
        connection, self._connection, self._opened = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All that the block writes, or nothing of it. Nobody else writes meanwhile."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # what failed may have ended it
            connection.execute("ROLLBACK")
        raise


def _execute(connection: sqlite3.Connection, statements: str) -> None:
    for statement in statements.split(";"):
        connection.execute(statement)


def _code(error: sqlite3.DatabaseError) -> int:
    """SQLite's primary code of an error; 0 for one that has none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino

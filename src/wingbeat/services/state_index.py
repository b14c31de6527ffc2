"""The index of kept states: which there are, whose they are, and which initial states are loaded."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Literal, NamedTuple

from wingbeat.services.database import transaction

Kind = Literal["snapshot", "initial"]

VERSION = 1
SCHEMA = """
CREATE TABLE states (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, name TEXT, kind TEXT NOT NULL, suffix TEXT NOT NULL,
    fingerprint TEXT NOT NULL, model TEXT NOT NULL, position INTEGER NOT NULL, bytes INTEGER NOT NULL,
    checksum TEXT NOT NULL, created REAL NOT NULL, used REAL NOT NULL, expires REAL
);
CREATE UNIQUE INDEX names ON states (owner, name) WHERE name IS NOT NULL;
CREATE INDEX owners ON states (owner, created);
CREATE TABLE loaded (
    owner TEXT NOT NULL, name TEXT NOT NULL, fingerprint TEXT NOT NULL, state_id TEXT NOT NULL, path TEXT NOT NULL,
    is_default INTEGER NOT NULL, PRIMARY KEY (owner, fingerprint, name)
)
"""


class StateRecord(NamedTuple):
    """A kept state. Times are seconds since 1970; without `expires` it stays until it is deleted.

    `fingerprint`, `model` and `position` are those of a snapshot; an initial state's file does not tell them.
    `checksum` is the file's SHA-256 in hexadecimal.
    """

    id: str
    owner: str
    name: str | None
    kind: Kind
    suffix: str
    fingerprint: str
    model: str
    position: int
    bytes: int
    checksum: str
    created: float
    used: float
    expires: float | None

    @property
    def file_name(self) -> str:
        return self.id + self.suffix


class LoadedInitial(NamedTuple):
    """An initial state that `owner` has loaded under `name` into the model of `fingerprint`: of the kept state
    `state_id`, or else of the file `path`."""

    owner: str
    name: str
    fingerprint: str
    state_id: str
    path: str
    is_default: bool


_ALIVE = "owner = ? AND (expires IS NULL OR expires > ?)"


class StateIndex:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    # --- kept states

    def add(self, record: StateRecord) -> None:
        """Raises sqlite3.IntegrityError when the owner has one of that name."""
        places = ", ".join("?" * len(record))
        self._db.execute(f"INSERT INTO states ({', '.join(record._fields)}) VALUES ({places})", record)

    def find(self, owner: str, reference: str, now: float) -> StateRecord | None:
        """By id, else by name."""
        return self._one(f"{_ALIVE} AND (id = ? OR name = ?) ORDER BY id = ? DESC", owner, now, *([reference] * 3))

    def page(self, owner: str, now: float, limit: int, after: StateRecord | None) -> list[StateRecord]:
        """The newest first; those that come behind `after`."""
        if after is None:
            return self._many(f"{_ALIVE} ORDER BY created DESC, id DESC LIMIT ?", owner, now, limit)
        behind = f"{_ALIVE} AND (created, id) < (?, ?) ORDER BY created DESC, id DESC LIMIT ?"
        return self._many(behind, owner, now, after.created, after.id, limit)

    def change(self, record: StateRecord) -> None:
        """Take over name, use and expiry. Raises sqlite3.IntegrityError when the owner has one of that name."""
        self._db.execute(
            "UPDATE states SET name = ?, used = ?, expires = ? WHERE id = ?",
            (record.name, record.used, record.expires, record.id),
        )

    def remove(self, ids: Iterable[str]) -> None:
        self._db.executemany("DELETE FROM states WHERE id = ?", [(each,) for each in ids])

    def expired(self, now: float) -> list[StateRecord]:
        return self._many("expires <= ?", now)

    def all(self) -> list[StateRecord]:
        return self._many("TRUE")

    def usage(self, owner: str, now: float) -> tuple[int, int]:
        """Bytes of all states of `owner`, and of those that stay until they are deleted."""
        total = "SELECT total(bytes), total(bytes * (expires IS NULL)) FROM states WHERE " + _ALIVE
        everything, staying = self._db.execute(total, (owner, now)).fetchone()
        return int(everything), int(staying)

    def least_used(self, owner: str) -> list[StateRecord]:
        """Those that expire, the one that was not used for the longest time first."""
        return self._many("owner = ? AND expires IS NOT NULL ORDER BY used, id", owner)

    def _one(self, condition: str, *values: object) -> StateRecord | None:
        return next(iter(self._many(condition + " LIMIT 1", *values)), None)

    def _many(self, condition: str, *values: object) -> list[StateRecord]:
        fields = ", ".join(StateRecord._fields)
        return [StateRecord(*row) for row in self._db.execute(f"SELECT {fields} FROM states WHERE {condition}", values)]

    # --- initial states that are loaded

    def loaded(self) -> list[LoadedInitial]:
        fields = ", ".join(LoadedInitial._fields)
        rows = self._db.execute(f"SELECT {fields} FROM loaded ORDER BY name")
        return [LoadedInitial._make(row)._replace(is_default=bool(row[-1])) for row in rows]

    def load(self, entry: LoadedInitial) -> None:
        """In the place of one of the same name. There is one default."""
        with transaction(self._db):
            if entry.is_default:
                self._db.execute(
                    "UPDATE loaded SET is_default = 0 WHERE owner = ? AND fingerprint = ?",
                    (entry.owner, entry.fingerprint),
                )
            self._db.execute("INSERT OR REPLACE INTO loaded VALUES (?, ?, ?, ?, ?, ?)", entry)

    def unload(self, entry: LoadedInitial) -> None:
        self._db.execute(
            "DELETE FROM loaded WHERE owner = ? AND fingerprint = ? AND name = ?",
            (entry.owner, entry.fingerprint, entry.name),
        )

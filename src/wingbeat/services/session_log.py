"""What is kept of sessions: rows of SQLite. Each function does one thing with an open database.

A session is the log of its tokens: for each turn the ids that were read and those that were written, as little-endian
int32, so that a turn is one new row whatever came before it. A turn knows the one before it, and a session its last
one: sessions that begin alike share their first turns, and a turn goes when nothing needs it any more.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable
from typing import NamedTuple

import numpy as np

from wingbeat.services.database import transaction

VERSION = 2
SCHEMA = """
CREATE TABLE turns (
    key INTEGER PRIMARY KEY AUTOINCREMENT, before INTEGER REFERENCES turns (key),
    read BLOB NOT NULL, written BLOB NOT NULL
);
CREATE INDEX turns_by_before ON turns (before);
CREATE TABLE sessions (
    key INTEGER PRIMARY KEY AUTOINCREMENT, owner TEXT NOT NULL, id TEXT NOT NULL,
    fingerprint TEXT NOT NULL, model TEXT NOT NULL, state TEXT NOT NULL,
    tokens INTEGER NOT NULL, turns INTEGER NOT NULL, created REAL NOT NULL, updated REAL NOT NULL,
    last INTEGER NOT NULL REFERENCES turns (key),
    UNIQUE (owner, id)
);
CREATE INDEX sessions_by_use ON sessions (owner, updated);
CREATE INDEX sessions_by_last ON sessions (last)
"""

UPGRADES = {
    1: f"""
    ALTER TABLE turns RENAME TO numbered_turns;
    ALTER TABLE sessions RENAME TO earlier_sessions;
    DROP INDEX sessions_by_use;
    {SCHEMA};
    INSERT INTO turns SELECT rowid, lag(rowid) OVER (PARTITION BY session ORDER BY number), read, written
        FROM numbered_turns;
    INSERT INTO sessions SELECT earlier_sessions.*, max(numbered_turns.rowid)
        FROM earlier_sessions JOIN numbered_turns ON session = key GROUP BY key;
    DROP TABLE numbered_turns;
    DROP TABLE earlier_sessions
    """
}
"""From versions in which each session had its turns for itself, numbered."""

_COLUMNS = "key, owner, id, fingerprint, model, state, tokens, turns, created, updated, last"
_IDS = np.dtype("<i4")


class SessionConflict(Exception):  # noqa: N818 - a state of affairs, not a mistake
    """Somebody else has changed the session, or deleted it, since it was looked at. The message says which."""


class Session(NamedTuple):
    """A session as of its last turn.

    ``fingerprint`` and ``model`` are those of the model that its ids belong to, ``state`` is the name of the initial
    state before them. ``tokens`` counts its log. The times are seconds since 1970. ``last`` is the key of its last
    turn; one that is not kept yet has the ``key`` 0, and ``last`` where it goes on from turns of another one.
    """

    key: int
    owner: str
    id: str
    fingerprint: str
    model: str
    state: str
    tokens: int
    turns: int
    created: float
    updated: float
    last: int = 0

    def branch(self, session_id: str) -> Session:
        """A new session of the same owner that goes on from the last turn of this one."""
        return self._replace(key=0, id=session_id, created=0.0, updated=0.0)

    @property
    def name(self) -> str:
        """Among those of all owners."""
        return session_name(self.owner, self.id)


class LoggedTurn(NamedTuple):
    """Token ids: those that were read, and the answer to them."""

    read: list[int]
    written: list[int]


def tokens_of(log: Iterable[LoggedTurn]) -> list[int]:
    """All tokens of a session, in order."""
    return [token for turn in log for token in (*turn.read, *turn.written)]


def session_name(owner: str, session_id: str) -> str:
    """Of a session among those of all owners."""
    return f"{owner}/{session_id}"


def find(db: sqlite3.Connection, owner: str, session_id: str) -> Session | None:
    row = db.execute(f"SELECT {_COLUMNS} FROM sessions WHERE owner = ? AND id = ?", (owner, session_id)).fetchone()
    return None if row is None else Session(*row)


def read_log(db: sqlite3.Connection, session: Session) -> list[LoggedTurn]:
    """All turns, the first one first."""
    rows = db.execute(
        "WITH RECURSIVE path (key, before) AS (SELECT key, before FROM turns WHERE key = ? "
        "UNION ALL SELECT turns.key, turns.before FROM turns JOIN path ON turns.key = path.before) "
        "SELECT read, written FROM turns JOIN path USING (key) ORDER BY key",
        (session.last,),
    )
    return [LoggedTurn(_to_ids(read), _to_ids(written)) for read, written in rows]


def newest(db: sqlite3.Connection, owner: str, limit: int, after: Session | None) -> list[Session]:
    """The owner's sessions, the last used first: ``limit`` of those that come after ``after``."""
    place = (float("inf"), 0) if after is None else (after.updated, after.key)
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM sessions WHERE owner = ? AND (updated, key) < (?, ?) "
        "ORDER BY updated DESC, key DESC LIMIT ?",
        (owner, *place, limit),
    )
    return [Session(*row) for row in rows]


def below(db: sqlite3.Connection, owner: str, session_id: str) -> list[str]:
    """Ids of the owner's sessions that begin with this one and a colon."""
    rows = db.execute(
        "SELECT id FROM sessions WHERE owner = ? AND id >= ? AND id < ?", (owner, f"{session_id}:", f"{session_id};")
    )
    return [found for (found,) in rows]


def append(db: sqlite3.Connection, before: Session, turn: LoggedTurn, now: float) -> Session:
    """Add a turn to the session, which is ``before``; one of no turns begins. Durable when this returns.

    Raises SessionConflict when the session is not as it was before.
    """
    with transaction(db):
        found = find(db, before.owner, before.id)
        _check_unchanged(before, found)
        tokens, turns = before.tokens + len(turn.read) + len(turn.written), before.turns + 1
        last = _insert(db, before.last, turn)
        values = (*before[1:6], tokens, turns, before.created if found else now, now, last)
        if found is None:
            key = db.execute(f"INSERT INTO sessions ({_COLUMNS}) VALUES (NULL{', ?' * len(values)})", values).lastrowid
        else:
            key = found.key
            changes = (tokens, turns, now, last, key)
            db.execute("UPDATE sessions SET tokens = ?, turns = ?, updated = ?, last = ? WHERE key = ?", changes)
    assert key is not None
    return Session(key, *values)


def _insert(db: sqlite3.Connection, before: int, turn: LoggedTurn) -> int:
    """The key of a new turn. Raises SessionConflict when the one before it is gone."""
    if before and db.execute("SELECT 1 FROM turns WHERE key = ?", (before,)).fetchone() is None:
        raise SessionConflict("the turn that it follows was deleted while the answer was written")
    row = (before or None, _to_bytes(turn.read), _to_bytes(turn.written))
    key = db.execute("INSERT INTO turns (before, read, written) VALUES (?, ?, ?)", row).lastrowid
    assert key is not None
    return key


def touch(db: sqlite3.Connection, session: Session, now: float) -> None:
    """Note that the session is used."""
    db.execute("UPDATE sessions SET updated = max(updated, ?) WHERE key = ?", (now, session.key))


def delete(db: sqlite3.Connection, owner: str, session_id: str) -> bool:
    """Whether there was such a session."""
    with transaction(db):
        found = find(db, owner, session_id)
        if found is not None:
            _drop(db, found.key)
    return found is not None


def delete_unused(db: sqlite3.Connection, since: float, spared: Collection[str]) -> list[str]:
    """Delete what was not used since then, but for those of the names ``spared``. The names of what went."""
    with transaction(db):
        rows = db.execute("SELECT key, owner, id FROM sessions WHERE updated < ?", (since,)).fetchall()
        return _delete(db, rows, spared, len(rows))


def delete_beyond(db: sqlite3.Connection, owner: str, most: int, spared: Collection[str]) -> list[str]:
    """Of more than ``most`` sessions of one owner, delete those that were not used for the longest time, but for those
    of the names ``spared``. The names of what went."""
    with transaction(db):
        (count,) = db.execute("SELECT count(*) FROM sessions WHERE owner = ?", (owner,)).fetchone()
        if count <= most:
            return []
        rows = db.execute("SELECT key, owner, id FROM sessions WHERE owner = ? ORDER BY updated, key", (owner,))
        return _delete(db, rows.fetchall(), spared, count - most)


def _delete(
    db: sqlite3.Connection, rows: Iterable[tuple[int, str, str]], spared: Collection[str], most: int
) -> list[str]:
    named = [(key, session_name(owner, session_id)) for key, owner, session_id in rows]
    gone = [(key, name) for key, name in named if name not in spared][:most]
    for key, _ in gone:
        _drop(db, key)
    return [name for _, name in gone]


def _drop(db: sqlite3.Connection, key: int) -> None:
    """Delete a session, and of its turns those that no other one has."""
    (turn,) = db.execute("SELECT last FROM sessions WHERE key = ?", (key,)).fetchone()
    db.execute("DELETE FROM sessions WHERE key = ?", (key,))
    while turn is not None:
        sessions = db.execute("SELECT 1 FROM sessions WHERE last = ?", (turn,)).fetchone()
        if sessions or db.execute("SELECT 1 FROM turns WHERE before = ?", (turn,)).fetchone():
            return
        (before,) = db.execute("SELECT before FROM turns WHERE key = ?", (turn,)).fetchone()
        db.execute("DELETE FROM turns WHERE key = ?", (turn,))
        turn = before


def _check_unchanged(before: Session, found: Session | None) -> None:
    if found is None and before.key:
        raise SessionConflict("it was deleted while the answer was written")
    if found is not None and (found.key, found.tokens, found.turns) != (before.key, before.tokens, before.turns):
        raise SessionConflict("another server added to it while the answer was written")


def _to_bytes(ids: list[int]) -> bytes:
    return np.array(ids, _IDS).tobytes()


def _to_ids(blob: bytes) -> list[int]:
    return np.frombuffer(blob, _IDS).tolist()

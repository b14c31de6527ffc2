"""What is kept of sessions, when it goes, and what happens to it when two servers share a file."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from wingbeat.services.session_log import LoggedTurn, Session, SessionConflict
from wingbeat.services.sessions import DAY, SessionStore


class Kept:
    """A store, what it told to be forgotten, and its time."""

    def __init__(self, path: Path) -> None:
        self.now = 1e9
        self.forgotten: list[str] = []
        self.store = SessionStore(path, days=2, most=3, forget=self.forgotten.extend, clock=lambda: self.now)

    async def turn(self, session_id: str, read: list[int], written: list[int], owner: str = "ann") -> Session:
        before = await self.store.find(owner, session_id) or new(session_id, owner)
        self.now += 1
        return await self.store.append(before, LoggedTurn(read, written))

    async def ids(self, owner: str = "ann") -> list[str]:
        return [session.id for session in await self.store.newest(owner, 100)]


def new(session_id: str, owner: str = "ann") -> Session:
    return Session(0, owner, session_id, "fingerprint", "model", "none", 0, 0, 0.0, 0.0)


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Kept]:
    made = Kept(tmp_path / "sessions.sqlite3")
    yield made
    await made.store.close()


async def test_a_log_grows_by_turns_and_outlives_the_server(kept: Kept, tmp_path: Path) -> None:
    first = await kept.turn("a", [1, 2], [65535])
    second = await kept.turn("a", [], [3])
    assert (second.key, second.tokens, second.turns, second.created) == (first.key, 4, 2, first.created)
    assert second.updated == first.updated + 1
    later = Kept(tmp_path / "sessions.sqlite3")
    found = await later.store.find("ann", "a")
    assert found == second
    assert await later.store.read_log(second) == [LoggedTurn([1, 2], [65535]), LoggedTurn([], [3])]
    await later.store.close()


async def test_owners_do_not_see_each_other(kept: Kept) -> None:
    await kept.turn("a", [1], [2])
    await kept.turn("a", [3], [4], owner="bob")
    assert (await kept.ids(), await kept.ids("bob"), await kept.ids("eve")) == (["a"], ["a"], [])
    assert await kept.store.delete("ann", "a")
    assert not await kept.store.delete("ann", "a")
    assert kept.forgotten == ["ann/a"]
    (bobs,) = await kept.store.newest("bob", 1)
    assert await kept.store.read_log(bobs) == [LoggedTurn([3], [4])]


async def test_pages_begin_with_the_last_used(kept: Kept) -> None:
    for name in "abc":
        await kept.turn(name, [1], [])
    await kept.turn("b", [1], [])
    page = await kept.store.newest("ann", 2)
    assert [session.id for session in page] == ["b", "c"]
    assert [session.id for session in await kept.store.newest("ann", 2, page[-1])] == ["a"]


@pytest.mark.parametrize("began", [False, True])
async def test_two_servers_cannot_both_add_to_what_they_saw(kept: Kept, tmp_path: Path, began: bool) -> None:
    before = await kept.turn("a", [1], [2]) if began else new("a")
    other = Kept(tmp_path / "sessions.sqlite3")
    await other.turn("a", [3], [4])
    with pytest.raises(SessionConflict, match="another server"):
        await kept.store.append(before, LoggedTurn([5], [6]))
    found = await kept.store.find("ann", "a")
    assert found is not None
    assert (await kept.store.read_log(found))[-1] == LoggedTurn([3], [4])
    assert kept.forgotten == ["ann/a"]
    await other.store.close()


async def test_a_session_that_was_deleted_and_begun_anew_is_another(kept: Kept) -> None:
    before = await kept.turn("a", [1], [2])
    await kept.store.delete("ann", "a")
    with pytest.raises(SessionConflict, match="deleted"):
        await kept.store.append(before, LoggedTurn([3], [4]))
    await kept.turn("a", [1], [2])
    with pytest.raises(SessionConflict):
        await kept.store.append(before, LoggedTurn([3], [4]))


async def test_what_is_not_used_expires_unless_somebody_is_at_it(kept: Kept) -> None:
    old, _ = await kept.turn("old", [1], []), await kept.turn("in use", [1], [])
    assert kept.store.expires(old) == old.updated + 2 * DAY
    kept.now += 2 * DAY
    await kept.turn("young", [1], [])
    await kept.store.enter("ann/in use")
    await kept.store.sweep()
    kept.store.leave("ann/in use")
    assert (await kept.ids(), kept.forgotten) == (["young", "in use"], ["ann/old"])


async def test_without_a_limit_nothing_expires(tmp_path: Path) -> None:
    store = SessionStore(tmp_path / "s", days=0, most=1, forget=lambda names: None, clock=lambda: 1.0)
    session = await store.append(new("a"), LoggedTurn([1], []))
    await store.sweep()
    assert (await store.find("ann", "a"), store.expires(session)) == (session, None)
    await store.close()


async def test_a_server_without_sessions_has_no_file(kept: Kept, tmp_path: Path) -> None:
    await kept.store.sweep()
    assert not list(tmp_path.iterdir())


async def test_of_too_many_the_least_recently_used_goes(kept: Kept) -> None:
    for name in ("one", "two", "three"):
        await kept.turn(name, [1], [])
    await kept.turn("one", [1], [], owner="bob")
    await kept.turn("one", [1], [])
    await kept.store.enter("ann/two")  # it would be the next to go
    await kept.turn("four", [1], [])
    kept.store.leave("ann/two")
    assert (await kept.ids(), kept.forgotten) == (["four", "one", "two"], ["ann/three"])
    assert await kept.ids("bob") == ["one"]


FIRST_VERSION = """
CREATE TABLE sessions (
    key INTEGER PRIMARY KEY AUTOINCREMENT, owner TEXT NOT NULL, id TEXT NOT NULL,
    fingerprint TEXT NOT NULL, model TEXT NOT NULL, state TEXT NOT NULL,
    tokens INTEGER NOT NULL, turns INTEGER NOT NULL, created REAL NOT NULL, updated REAL NOT NULL,
    UNIQUE (owner, id)
);
CREATE INDEX sessions_by_use ON sessions (owner, updated);
CREATE TABLE turns (
    session INTEGER NOT NULL REFERENCES sessions (key) ON DELETE CASCADE, number INTEGER NOT NULL,
    read BLOB NOT NULL, written BLOB NOT NULL,
    UNIQUE (session, number)
);
PRAGMA user_version = 1
"""


async def test_a_file_of_the_first_version_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "sessions.sqlite3"
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.executescript(FIRST_VERSION)
        for key, name, turns in ((3, "a", 3), (7, "b", 1)):
            row = (key, "ann", name, "fingerprint", "model", "none", 2 * turns, turns, 1e9, 1e9 + key)
            db.execute(f"INSERT INTO sessions VALUES ({', '.join('?' * len(row))})", row)
        for session, number in ((3, 0), (7, 0), (3, 1), (3, 2)):
            blobs = [np.array([10 * session + number + at], "<i4").tobytes() for at in (0, 100)]
            db.execute("INSERT INTO turns VALUES (?, ?, ?, ?)", (session, number, *blobs))
    for opened in range(2):
        kept = Kept(path)
        assert await kept.ids() == (["b", "a"] if opened == 0 else ["a", "b"])
        a, b = await kept.store.find("ann", "a"), await kept.store.find("ann", "b")
        assert a is not None
        assert b is not None
        assert (a.key, a.turns, b.key, b.created) == (3, 3 + opened, 7, 1e9)
        turns = [LoggedTurn([30 + number], [130 + number]) for number in range(3)]
        assert await kept.store.read_log(a) == turns + [LoggedTurn([1], [2])] * opened
        assert await kept.store.read_log(b) == [LoggedTurn([70], [170])]
        kept.now += 10 + opened
        await kept.turn("a", [1], [2])
        await kept.store.close()
    last = Kept(path)
    assert await last.store.delete("ann", "a")
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM turns").fetchone() == (1,)
    assert await last.turn("b", [5], [6])
    await last.store.close()

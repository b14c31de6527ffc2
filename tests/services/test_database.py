"""One file: what is damaged, locked or full, and who else has it open."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from wingbeat.services import database
from wingbeat.services.database import Database, StorageError, transaction

SCHEMA = "CREATE TABLE notes (text TEXT)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "not there yet" / "notes.sqlite3"


@pytest.fixture
async def notes(path: Path) -> AsyncIterator[Database]:
    made = Database(path, SCHEMA, 1)
    yield made
    await made.close()


async def write(notes: Database, text: str) -> None:
    await notes.run(lambda db: db.execute("INSERT INTO notes VALUES (?)", (text,)))


async def read(notes: Database) -> list[Any]:
    return await notes.run(lambda db: [text for (text,) in db.execute("SELECT text FROM notes")])


async def again(path: Path) -> list[Any]:
    """What a server finds that is started with this file."""
    reader = Database(path, SCHEMA, 1)
    found = await read(reader)
    await reader.close()
    return found


async def test_what_was_written_is_there_the_next_time_and_for_the_user_alone(notes: Database, path: Path) -> None:
    await write(notes, "one")
    assert await again(path) == ["one"]  # while the first has it open
    assert path.stat().st_mode & 0o077 == 0


async def test_a_transaction_that_fails_writes_nothing(notes: Database) -> None:
    def half(db: sqlite3.Connection) -> None:
        with transaction(db):
            db.execute("INSERT INTO notes VALUES ('half')")
            raise LookupError

    with pytest.raises(LookupError):
        await notes.run(half)
    assert await read(notes) == []
    await write(notes, "after it")


@pytest.mark.parametrize("content", [b"this is no database " * 500, b"SQLite format 3\0" + bytes(5000)])
async def test_a_damaged_file_is_moved_aside(notes: Database, path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with structlog.testing.capture_logs() as log:
        await write(notes, "new")
    (line,) = log
    assert Path(line["moved_to"]).read_bytes() == content
    assert await again(path) == ["new"]


async def test_damage_that_is_found_in_use_costs_one_request(notes: Database, path: Path) -> None:
    for number in range(200):
        await write(notes, f"{number} " * 100)
    await notes.run(lambda db: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    await notes.run(lambda db: db.execute("PRAGMA cache_size = 0"))
    with pytest.raises(StorageError, match="damaged"):
        await read(notes)
    assert await read(notes) == []
    assert len(list(path.parent.glob("*.damaged-*"))) >= 1


async def test_a_damaged_file_that_another_server_has_replaced_stays(notes: Database, path: Path) -> None:
    await write(notes, "old")
    path.rename(path.with_name("aside"))
    other = Database(path, SCHEMA, 1)
    await write(other, "the other's")

    def corrupt(db: sqlite3.Connection) -> None:
        error = sqlite3.DatabaseError("malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    with pytest.raises(StorageError):
        await notes.run(corrupt)
    assert await read(notes) == ["the other's"]
    assert not list(path.parent.glob("*.damaged-*"))
    await other.close()


async def test_a_full_disk_and_a_lock_cost_the_request_alone(
    notes: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    await write(notes, "kept")
    await notes.run(lambda db: db.execute("PRAGMA max_page_count = 3"))
    with pytest.raises(StorageError, match="full"):
        await write(notes, "x" * 100_000)
    await notes.run(lambda db: db.execute("PRAGMA max_page_count = 10000"))
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="locked"):
        await write(notes, "waiting")
    holder.execute("COMMIT")
    holder.close()
    await write(notes, "after them")
    assert await read(notes) == ["kept", "after them"]


async def test_a_folder_that_cannot_be_and_one_that_comes(path: Path) -> None:
    path.parent.write_text("a file where the folder should be")
    notes = Database(path, SCHEMA, 1)
    with structlog.testing.capture_logs() as log, pytest.raises(StorageError):
        await read(notes)
    assert log[0]["path"] == str(path)
    path.parent.unlink()
    assert await read(notes) == []
    await notes.close()


async def test_a_file_of_another_version_is_left_alone(notes: Database, path: Path) -> None:
    await write(notes, "old")
    newer = Database(path, SCHEMA, 2)
    with pytest.raises(StorageError, match="another version"):
        await read(newer)
    await newer.close()
    assert await again(path) == ["old"]

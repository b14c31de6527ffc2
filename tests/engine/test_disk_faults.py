"""States on disk when things go wrong: never a wrong one, a clear line in the log, and the server goes on."""

from __future__ import annotations

import logging
import os
import random
import re
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine import disk_processes
from tests.engine.disk_states import MODEL, SIZE, eventually, files, get, idle, put, state, stored, tokens
from wingbeat.engine import disk_index, disk_ledger
from wingbeat.engine.disk_files import ABANDONED_SECONDS, state_id
from wingbeat.engine.disk_store import INDEX
from wingbeat.engine.disk_tier import DiskTier

PLENTY = 10**9
KILLS = 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def tier(folder: Path) -> Iterator[DiskTier]:
    """A tier with one state on disk, of a session."""
    tier = DiskTier(folder, PLENTY, MODEL)
    put(tier, 1, session="chat")
    idle(tier)
    yield tier
    tier.close(20)


def only(folder: Path) -> Path:
    (file,) = files(folder)
    return file


def make_old(folder: Path) -> None:
    old = time.time() - 2 * ABANDONED_SECONDS
    for path in files(folder):
        os.utime(path, (old, old))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_killed_at_any_moment(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    chance = random.Random(7)
    found = 0
    for round in range(KILLS):
        process, told = disk_processes.start(disk_processes.work, folder, 12 * SIZE, round, 10**6)
        assert told.recv() == "ready"
        time.sleep(chance.random() * 0.05)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        found += len(stored(folder, 12 * SIZE))
    assert found
    assert warnings(caplog) == []
    make_old(folder)
    assert len(stored(folder)) == len(files(folder))


@pytest.mark.parametrize("moment", disk_processes.MOMENTS)
def test_killed_just_before(folder: Path, tier: DiskTier, moment: str) -> None:
    tier.close(20)
    process, _ = disk_processes.start(disk_processes.die, folder, moment)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    before, after = {("fresh", tokens(1)): "chat"}, {("fresh", tokens(1, 2)): "chat"}
    assert stored(folder) == (after if moment == "what it replaces is deleted" else before)
    make_old(folder)
    assert len(stored(folder)) == len(files(folder)) == 1


def test_two_servers_at_once(folder: Path) -> None:
    budget = 12 * SIZE
    servers = [disk_processes.start(disk_processes.work, folder, budget, seed, 100) for seed in (1, 2)]
    for process, told in servers:
        assert told.recv() == "ready"
        assert told.recv() > 5
        process.join()
        assert process.exitcode == 0
    make_old(folder)
    assert len(stored(folder, budget)) == len(files(folder)) > 1
    assert sum(file.stat().st_size for file in files(folder)) <= budget


def test_another_server_deletes_a_state_that_is_being_written(
    folder: Path, tier: DiskTier, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    chmod = Path.chmod

    def deleted_before(path: Path, mode: int) -> None:
        path.unlink()
        chmod(path, mode)

    monkeypatch.setattr(Path, "chmod", deleted_before)
    id = put(tier, 2)
    idle(tier)
    assert tier.gone() == [id]
    monkeypatch.setattr(Path, "chmod", chmod)
    assert put(tier, 2) == id, "writing goes on"
    idle(tier)
    assert tier.gone() == warnings(caplog) == []
    assert set(stored(folder)) == {("fresh", tokens(1)), ("fresh", tokens(2))}


@pytest.mark.parametrize("room", [2000, SIZE], ids=["for no state", "for a state but not for its row"])
def test_a_full_disk(folder: Path, tier: DiskTier, room: int) -> None:
    tier.close(20)
    shutil.rmtree(folder)
    tier = DiskTier(folder, PLENTY, MODEL)
    put(tier, 0)
    tier.close(20)
    process, told = disk_processes.start(disk_processes.fill, folder, room)
    lost, gone, paused, right = told.recv()
    process.join()
    assert process.exitcode == 0
    assert lost is not None
    assert (gone, paused, right) == ([lost], None, [True])
    assert set(stored(folder)) == {("fresh", tokens(0)), ("fresh", tokens(1))}
    assert len(files(folder)) == 2


def test_writing_pauses_and_begins_again(
    folder: Path, tier: DiskTier, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    fsync = os.fsync

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    lost = [put(tier, 2)]
    idle(tier)
    assert put(tier, 3) is None
    monkeypatch.setattr(disk_ledger, "PAUSE", 0.0)
    tier._ledger.paused_until = 0.0
    lost.append(put(tier, 3))
    idle(tier)
    assert tier.gone() == lost
    assert get(tier, state_id(MODEL, "fresh", tokens(1))) == state(tokens(1))
    monkeypatch.setattr(os, "fsync", fsync)
    put(tier, 3)
    idle(tier)
    tier.gone()
    full_line, again = [record.getMessage() for record in caplog.records]
    assert f"states are not kept in {folder} for now (No space left on device): free space there" in full_line
    assert again == f"states are kept in {folder} again"
    assert set(stored(folder)) == {("fresh", tokens(1)), ("fresh", tokens(3))}
    assert len(files(folder)) == 2


def test_a_folder_that_cannot_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tier = DiskTier(Path("/proc/wingbeat/cache"), PLENTY, MODEL)
    assert (tier.load(), put(tier, 1), tier.states) == ([], None, 0)
    tier.close(20)
    assert len(warnings(caplog)) == 1


def test_what_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    for path in ("file", "file/in/it", "link"):
        with pytest.raises(ValueError, match="name another, or set cache_disk_mb to 0"):
            DiskTier(tmp_path / path, PLENTY, MODEL)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def empty(file: Path) -> None:
    os.truncate(file, 0)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-50] ^= 1
    file.write_bytes(content)


def replace(file: Path) -> None:
    file.write_bytes(random.Random(1).randbytes(3000))


def directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


def swap(file: Path) -> None:
    """Another whole state under this one's name."""
    other = DiskTier(file.parent.parent.parent / "other", PLENTY, MODEL)
    put(other, 2, session="chat")
    other.close(20)
    shutil.copy(only(file.parent.parent.parent / "other"), file)


@pytest.mark.parametrize("harm", [truncate, empty, flip, replace, swap, directory])
def test_a_damaged_file(folder: Path, tier: DiskTier, caplog: pytest.LogCaptureFixture, harm: object) -> None:
    tier.close(20)
    file = only(folder)
    harm(file)  # type: ignore[operator]
    again = DiskTier(folder, PLENTY, MODEL)
    (found,) = again.load()
    assert get(again, found.id) is None
    assert get(again, found.id) is None
    assert again.gone() == [found.id]
    (line,) = warnings(caplog)
    assert "a cached state is dropped" in line
    assert file.stem in line
    if harm is not directory:  # it stays in the way; the others are written again
        put(again, 1, session="chat")
    again.close(20)
    assert stored(folder) == ({} if harm is directory else {("fresh", tokens(1)): "chat"})


def test_a_file_that_vanished_is_a_miss(folder: Path, tier: DiskTier, caplog: pytest.LogCaptureFixture) -> None:
    id = only(folder).stem
    only(folder).unlink()
    assert get(tier, id) is None
    assert tier.gone() == [id]
    put(tier, 1)
    idle(tier)
    assert get(tier, id) == state(tokens(1))
    assert warnings(caplog) == []


def test_a_row_without_a_file_is_dropped_at_the_start(folder: Path, tier: DiskTier) -> None:
    id = only(folder).stem
    tier.close(20)
    only(folder).unlink()
    again = DiskTier(folder, PLENTY, MODEL)
    again.close(20)
    assert again.gone() == [id]
    assert again.states == 0


def garbage(index: Path) -> None:
    index.write_bytes(b"no database" * 1000)


def bad_page(index: Path) -> None:
    content = bytearray(index.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    index.write_bytes(content)


def other_version(index: Path) -> None:
    change(index, "PRAGMA user_version = 99")


def other_schema(index: Path) -> None:
    change(index, "DROP TABLE states")


def change(index: Path, statement: str) -> None:
    database = sqlite3.connect(index)
    with database:
        database.execute(statement)
    database.close()


@pytest.mark.parametrize("harm", [garbage, bad_page, other_version, other_schema])
def test_a_damaged_index(folder: Path, tier: DiskTier, caplog: pytest.LogCaptureFixture, harm: object) -> None:
    tier.close(20)
    harm(folder / INDEX)  # type: ignore[operator]
    again = DiskTier(folder, PLENTY, MODEL)
    assert again.load() == []
    (line,) = warnings(caplog)
    assert re.search(r"index in .* was damaged \(.+\): the states there are dropped", line)
    put(again, 2)
    again.close(20)
    assert stored(folder) == {("fresh", tokens(2)): None}
    assert len(files(folder)) == 1  # what the lost index knew does not lie there for ever
    assert len(warnings(caplog)) == 1


def test_an_index_that_is_damaged_while_it_is_used(
    folder: Path, tier: DiskTier, caplog: pytest.LogCaptureFixture
) -> None:
    id = only(folder).stem
    change(folder / INDEX, "DROP TABLE sessions")
    lost = put(tier, 2, session="chat")
    idle(tier)
    assert sorted(tier.gone()) == sorted([id, lost])  # type: ignore[list-item]
    assert len(warnings(caplog)) == 1
    put(tier, 3)
    idle(tier)
    assert stored(folder) == {("fresh", tokens(3)): None}
    assert len(files(folder)) == 1


def test_a_changed_row_is_found(folder: Path, tier: DiskTier, caplog: pytest.LogCaptureFixture) -> None:
    put(tier, 2)
    tier.close(20)
    change(folder / INDEX, "UPDATE states SET tokens = x'07000000' WHERE tokens = x'01000000'")
    assert stored(folder) == {("fresh", tokens(2)): None}
    assert "had damaged entries: 1 states are dropped" in warnings(caplog)[0]


def test_a_changed_position_is_found(folder: Path, tier: DiskTier) -> None:
    tier.close(20)
    change(folder / INDEX, "UPDATE states SET position = 5")
    assert stored(folder) == {}


def test_a_locked_index(
    folder: Path, tier: DiskTier, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier.close(20)
    monkeypatch.setattr(disk_index, "BUSY_SECONDS", 0.01)
    again = DiskTier(folder, PLENTY, MODEL)
    idle(again)
    eventually(lambda: again.states)
    other = sqlite3.connect(folder / INDEX, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    lost = put(again, 2)
    idle(again)
    assert again.gone() == [lost]
    assert "was locked for too long" in warnings(caplog)[-1]
    again.forget("chat")
    monkeypatch.setattr(disk_ledger, "PAUSE", 0.01)
    eventually(lambda: (again.gone(), len(warnings(caplog)) > 1)[1])
    other.execute("ROLLBACK")
    other.close()
    put(again, 2)
    eventually(lambda: not again._ledger.changes.forgets)  # what should be deleted is tried until it is
    again.close(20)
    assert stored(folder) == {("fresh", tokens(2)): None}
    assert len(files(folder)) == 1


def test_a_folder_that_is_deleted_while_it_is_used(
    folder: Path, tier: DiskTier, caplog: pytest.LogCaptureFixture
) -> None:
    id = only(folder).stem
    shutil.rmtree(folder)
    put(tier, 2)
    idle(tier)
    assert get(tier, id) is None
    assert stored(folder) == {("fresh", tokens(2)): None}
    assert warnings(caplog) == []


def test_what_others_put_there_stays(folder: Path, tier: DiskTier) -> None:
    kept = [folder / "model.safetensors", folder / "ab" / "model.safetensors", folder / "notes" / "x.tmp"]
    tier.close(20)
    for path in kept:
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    left = folder / "ab" / ("ab" * 32 + ".safetensors")
    unfinished = left.with_name(left.name + ".0123abcd.tmp")
    for path in (left, unfinished):
        path.write_text("")
    make_old(folder)
    stored(folder)
    assert all(path.exists() for path in kept)
    assert not left.exists()
    assert not unfinished.exists()

"""Kept states: files and index together, whatever happens to either."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest

from tests.random_models import write_pth
from wingbeat.engine.snapshot import StateSnapshot
from wingbeat.services.database import StorageError
from wingbeat.services.recent_states import KeptState, RecentStates
from wingbeat.services.state_files import INITIAL_SUFFIXES, StateRefusedError
from wingbeat.services.state_index import LoadedInitial
from wingbeat.services.state_shelf import LEFTOVER_SECONDS, NameTakenError, StatesFullError
from wingbeat.services.state_shelf import StateShelf as Shelf
from wingbeat.services.states import StateStore

LIFE = 100.0


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[StateStore]:
    made = opened(tmp_path, clock)
    yield made
    await made.close()


def opened(folder: Path, clock: Clock, budget: int = 2**20) -> StateStore:
    return StateStore(folder / "states", budget=budget, life=LIFE, clock=clock)


def snapshot(number: int = 1, values: int = 100) -> StateSnapshot:
    return StateSnapshot.from_arrays("finger", number, {"wkv": np.full(values, number, np.float32)})


async def keep(store: StateStore, number: int = 1, name: str | None = None, owner: str = "", values: int = 100) -> str:
    (record,) = await store.run(Shelf.keep, owner, [(snapshot(number, values), {"note": "x"})], "tiny", name)
    return record.id


async def position(store: StateStore, reference: str, owner: str = "") -> int | None:
    record = await store.run(Shelf.find, owner, reference)
    kept = None if record is None else await store.run(Shelf.read, record)
    return None if kept is None else kept.snapshot.position


def files(store: StateStore) -> list[str]:
    return sorted(os.listdir(store.folder / "stored"))


async def test_what_was_kept_is_found_again_by_id_and_name_also_after_a_restart(
    store: StateStore, tmp_path: Path, clock: Clock
) -> None:
    first, second = await keep(store, 3, "one"), await keep(store, 4)
    for again in (store, opened(tmp_path, clock)):
        assert [await position(again, each) for each in (first, "one", second, "two")] == [3, 3, 4, None]
        record = await again.run(Shelf.find, "", "one")
        assert record is not None
        kept = await again.run(Shelf.read, record)
        assert kept is not None
        assert kept.extra == {"note": "x", "model": "tiny"}
        assert kept.snapshot.to_arrays()["wkv"].tolist() == [3.0] * 100
        assert (record.model, record.fingerprint, record.kind) == ("tiny", "finger", "snapshot")
    await again.close()


async def test_another_owner_sees_nothing_and_may_use_the_same_names(store: StateStore) -> None:
    mine = await keep(store, 1, "one", "a")
    theirs = await keep(store, 2, "one", "b")
    assert [await position(store, "one", each) for each in ("a", "b", "")] == [1, 2, None]
    assert await position(store, mine, "b") is None
    page = await store.run(Shelf.page, "b", 10, None)
    assert [record.id for record in page] == [theirs]


async def test_pages_hold_the_newest_first(store: StateStore, clock: Clock) -> None:
    ids = []
    for number in range(5):
        clock.now += number % 2  # some at the same time
        ids.append(await keep(store, number))
    listed = []
    after = None
    while page := await store.run(Shelf.page, "", 2, after):
        listed += [record.id for record in page]
        after = page[-1]
    assert sorted(listed) == sorted(ids)
    assert listed[-1] in ids[:1] + ids[:1]
    created = [record.created for record in await store.run(Shelf.page, "", 10, None)]
    assert created == sorted(created, reverse=True)


@pytest.mark.parametrize(
    "name", ["", "../up", "a/b", "a\\b", ".hidden", "x" * 129, "load", "None", "a\nb", "st_" + "0" * 24]
)
async def test_names_that_are_refused(store: StateStore, name: str) -> None:
    with pytest.raises(StateRefusedError, match="cannot be the name"):
        await keep(store, name=name)
    assert files(store) == []


async def test_a_name_is_had_once(store: StateStore) -> None:
    first, second = await keep(store, 1, "one"), await keep(store, 2)
    record = await store.run(Shelf.find, "", second)
    assert record is not None
    for attempt in (
        lambda: keep(store, 3, "one"),
        lambda: store.run(Shelf.rename, record, "one"),
        lambda: store.run(Shelf.copy, record, "one"),
    ):
        with pytest.raises(NameTakenError):
            await attempt()
    assert await position(store, "one") == 1
    assert len(files(store)) == 2
    one = await store.run(Shelf.find, "", first)
    assert one is not None
    await store.run(Shelf.rename, one, "uno")
    assert [await position(store, each) for each in ("uno", "one", first)] == [1, None, 1]


async def test_states_without_a_name_expire_after_their_last_use(store: StateStore, clock: Clock) -> None:
    brief, used, named = await keep(store, 1), await keep(store, 2), await keep(store, 3, "stays")
    clock.now += LIFE - 1
    assert await position(store, used) == 2
    clock.now += LIFE - 1
    assert [await position(store, each) for each in (brief, used, named)] == [None, 2, 3]
    clock.now += 10 * LIFE
    await store.run(Shelf.tidy)
    assert files(store) == [f"{named}.safetensors"]
    record = await store.run(Shelf.find, "", named)
    assert record is not None
    assert (await store.run(Shelf.rename, record, None)).expires == clock.now + LIFE


async def test_a_copy_is_a_state_of_its_own(store: StateStore) -> None:
    source = await store.run(Shelf.find, "", await keep(store, 5))
    assert source is not None
    copy = await store.run(Shelf.copy, source, "kept")
    await store.run(Shelf.remove, source)
    assert [await position(store, each) for each in ("kept", source.id)] == [5, None]
    assert copy.checksum == source.checksum


async def test_those_without_a_name_make_room_the_least_used_first(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock, budget=20_000)
    named = await keep(store, 1, "named", values=1000)
    ids = []
    for number in range(2, 5):
        clock.now += 1
        ids.append(await keep(store, number, values=1000))
    clock.now += 61
    assert await position(store, ids[0]) == 2
    await keep(store, 5, values=1000)
    assert [await position(store, each) for each in (named, *ids)] == [1, 2, None, 4]
    assert len(files(store)) == 4
    await store.close()


async def test_named_ones_alone_may_fill_the_budget_and_then_nothing_more_is_kept(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock, budget=10_000)
    await keep(store, 1, "one", values=1000)
    await keep(store, 2, "two", values=1000)
    before = files(store)
    for name in (None, "three"):
        with pytest.raises(StatesFullError, match="delete some"):
            await keep(store, 3, name, values=1000)
    assert files(store) == before
    assert await keep(store, 3, "three", owner="another", values=1000)
    await store.close()


async def test_a_damaged_file_is_refused_and_a_lost_one_dropped(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock)
    damaged, swapped, lost, fine = [await keep(store, number) for number in range(1, 5)]
    folder = store.folder / "stored"
    data = bytearray((folder / f"{damaged}.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / f"{damaged}.safetensors").write_bytes(data)
    (folder / f"{fine}.safetensors").replace(folder / f"{swapped}.safetensors")  # a whole file, but not this state's
    await store.close()
    again = opened(tmp_path, clock)
    for broken in (damaged, swapped):
        with pytest.raises(StateRefusedError, match="altered or damaged"):
            await position(again, broken)
    (folder / f"{lost}.safetensors").unlink()
    assert [await position(again, each) for each in (lost, fine)] == [None, None]
    assert await again.run(Shelf.find, "", lost) is None
    await again.close()


async def test_what_a_crash_left_goes_when_it_is_old(store: StateStore) -> None:
    kept = await keep(store, 1)
    folder = store.folder / "stored"
    for name in ("st_old.safetensors", "old.upload", "new.upload"):
        (folder / name).write_bytes(b"x")
    old = time.time() - LEFTOVER_SECONDS - 1
    for name in ("st_old.safetensors", "old.upload", f"{kept}.safetensors"):
        os.utime(folder / name, (old, old))
    await store.run(Shelf.tidy)
    assert files(store) == sorted([f"{kept}.safetensors", "new.upload"])


async def test_a_failure_at_any_step_leaves_nothing(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    await keep(store, 1)
    before = files(store)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def locked(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    for target, failure in (("os.fsync", full), ("wingbeat.services.state_index.StateIndex.add", locked)):
        with monkeypatch.context() as broken:
            broken.setattr(target, failure)
            with pytest.raises(StorageError):
                await keep(store, 2)
        assert files(store) == before
    assert await position(store, await keep(store, 3)) == 3


async def test_a_folder_that_cannot_be_used_is_an_error_each_time_until_it_can(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "states").write_text("a file is in the way")
    store = opened(tmp_path, clock)
    await store.open()
    for _ in range(2):
        with pytest.raises(StorageError):
            await keep(store)
    (tmp_path / "states").unlink()
    assert await position(store, await keep(store, 2)) == 2
    await store.close()


async def test_uploads_are_checked_before_they_count(store: StateStore, tmp_path: Path) -> None:
    async def adopt(write: Callable[[Path], object], kind: str = "snapshot", suffix: str = ".safetensors") -> int:
        path = await store.run(Shelf.new_upload)
        write(path)
        assert kind in ("snapshot", "initial")
        return (await store.run(Shelf.adopt, "", path, kind, suffix, None)).position

    assert await adopt(lambda path: snapshot(7).save(path)) == 7
    time_state = {"blocks.0.att.time_state": np.zeros((1, 4, 4), np.float32)}
    tuned, model = tmp_path / "tuned.pth", tmp_path / "model.pth"
    write_pth(tuned, time_state)
    write_pth(model, {**time_state, "emb.weight": np.zeros((2, 2), np.float32)})
    assert await adopt(lambda path: path.write_bytes(tuned.read_bytes()), "initial", ".pth") == 0
    before = files(store)
    for content, kind in (
        (tuned.read_bytes(), "snapshot"),
        (b"", "snapshot"),
        (model.read_bytes(), "initial"),
        (b"x", "initial"),
    ):
        with pytest.raises(StateRefusedError) as refused:
            await adopt(lambda path, content=content: path.write_bytes(content), kind)
        assert "the file" in str(refused.value)
        assert str(tmp_path) not in str(refused.value)
    assert files(store) == before


async def test_loaded_initial_states_are_remembered_and_their_files_stay(
    store: StateStore, tmp_path: Path, clock: Clock
) -> None:
    file = await keep(store, 1)
    poet = LoadedInitial("", "poet", "finger", file, "", is_default=True)
    await store.remember_loaded(poet)
    await store.remember_loaded(LoadedInitial("", "clerk", "finger", "", "/x/clerk.pth", is_default=True))
    again = opened(tmp_path, clock)
    await again.open()
    assert [(entry.name, entry.state_id, entry.is_default) for entry in again.loaded] == [
        ("clerk", "", True),
        ("poet", file, False),
    ]
    clock.now += 2 * LIFE
    await again.run(Shelf.tidy)
    assert await position(again, file) == 1
    await again.forget_loaded(poet)
    clock.now += 2 * LIFE
    assert await position(again, file) is None
    await again.close()


def test_recent_states_are_bounded_in_bytes() -> None:
    recent = RecentStates(1000)
    for number in range(4):
        recent.put(KeptState(snapshot(number), {}, str(number)))  # 400 bytes each
        recent.get("0")
    assert [recent.get(str(number)) is not None for number in range(4)] == [True, False, False, True]
    recent.put(KeptState(snapshot(9, 1000), {}, "large"))
    assert recent.get("large") is None


def test_suffixes_of_initial_states_are_lower_case() -> None:
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in INITIAL_SUFFIXES)

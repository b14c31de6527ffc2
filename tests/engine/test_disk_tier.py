"""States on disk: kept over a restart, within a budget, the least valuable ones leaving first."""

from __future__ import annotations

import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.engine.disk_states import MODEL, SIZE, eventually, files, get, idle, put, state, stored, tokens
from wingbeat.engine import disk_index, disk_ledger, disk_queue
from wingbeat.engine.disk_files import StateFiles
from wingbeat.engine.disk_queue import WRITE_BURST, WRITE_RATE, WriteAllowance
from wingbeat.engine.disk_tier import DiskTier, Stored
from wingbeat.engine.snapshot import Continuation, StateSnapshot

PLENTY = 10**9


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "states"


@pytest.fixture
def tier(folder: Path) -> Iterator[DiskTier]:
    tier = DiskTier(folder, PLENTY, MODEL)
    yield tier
    tier.close(20)


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A disk that writes nothing until the event is set."""
    event = threading.Event()
    write = StateFiles.write

    def wait(*arguments: object) -> int:
        assert event.wait(20)
        return write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(StateFiles, "write", wait)
    yield event
    event.set()


def test_states_come_back_after_a_restart(folder: Path) -> None:
    tier = DiskTier(folder, PLENTY, MODEL)
    assert tier.load() == []
    seen = tokens(1, 2, 3)
    shift = np.ones(3, np.float32)
    whole = StateSnapshot.from_arrays("fp", 10, {"shift": shift}, shift, Continuation(seed=7, choice=1, read=[3]))
    first = tier.put("digest of a state", seen, whole, None)
    second = put(tier, 1, 2, session="chat")
    assert first is not None
    tier.close(20)

    again = DiskTier(folder, PLENTY, MODEL)
    assert sorted(again.load()) == sorted(
        [Stored(first, "digest of a state", seen, None, True), Stored(second, "fresh", tokens(1, 2), "chat", False)]  # type: ignore[arg-type]
    )
    assert again.load() == []
    assert (get(again, first), get(again, second)) == (whole, state(tokens(1, 2)))
    assert (again.states, again.bytes) == (2, sum(file.stat().st_size for file in files(folder)))
    again.close(20)


def test_states_of_other_models_are_not_given(folder: Path, tier: DiskTier) -> None:
    id = put(tier, 1)
    idle(tier)
    other = DiskTier(folder, PLENTY, "model a in int8")
    assert other.load() == []
    assert put(other, 1) != id
    assert get(other, id) is None
    other.close(20)


def test_what_waits_to_be_written_can_be_had(tier: DiskTier, stuck: threading.Event) -> None:
    ids = [put(tier, n) for n in range(3)]
    assert [get(tier, id) for id in ids] == [state(tokens(n)) for n in range(3)]


def test_a_state_is_written_once(folder: Path, tier: DiskTier) -> None:
    put(tier, 5)
    idle(tier)
    (file,) = files(folder)
    written = file.stat()
    put(tier, 5, session="chat")
    other = DiskTier(folder, PLENTY, MODEL)
    other._ledger.known.clear()  # as if it had started earlier
    put(other, 5)
    put(tier, 5)
    other.close(20)
    idle(tier)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    assert stored(folder) == {("fresh", tokens(5)): "chat"}


@pytest.mark.parametrize("at_once", [True, False])
def test_logits_are_added_and_never_lost(folder: Path, at_once: bool) -> None:
    tier = DiskTier(folder, PLENTY, MODEL)
    for logits in (False, True, False):
        put(tier, 5, session="chat", logits=logits)
        if not at_once:
            idle(tier)
    tier.close(20)
    again = DiskTier(folder, PLENTY, MODEL)
    (found,) = again.load()
    assert found.logits
    assert get(again, found.id) == state(tokens(5), logits=True)
    again.close(20)


def test_only_the_newest_state_of_a_session_stays(folder: Path, tier: DiskTier) -> None:
    old = put(tier, 1, session="chat")
    idle(tier)
    put(tier, 1, 2, session="chat")
    idle(tier)
    assert tier.gone() == [old]
    assert len(files(folder)) == 1
    assert stored(folder) == {("fresh", tokens(1, 2)): "chat"}


def test_a_state_that_waits_is_overtaken(folder: Path, tier: DiskTier, stuck: threading.Event) -> None:
    put(tier, 0)
    overtaken = put(tier, 1, session="chat")
    put(tier, 1, 2, session="chat")
    assert tier.gone() == [overtaken]
    assert get(tier, overtaken) is None
    stuck.set()
    idle(tier)
    assert stored(folder) == {("fresh", tokens(0)): None, ("fresh", tokens(1, 2)): "chat"}


def test_a_state_of_two_sessions_stays_until_both_left_it(folder: Path, tier: DiskTier) -> None:
    for session in ("one", "two"):
        put(tier, 1, session=session)
        idle(tier)
    put(tier, 1, 2, session="one")
    idle(tier)
    assert stored(folder) == {("fresh", tokens(1)): "two", ("fresh", tokens(1, 2)): "one"}
    tier.forget("two")
    idle(tier)
    assert stored(folder) == {("fresh", tokens(1, 2)): "one"}


def test_a_session_of_an_earlier_run_is_forgotten(folder: Path, tier: DiskTier) -> None:
    put(tier, 1, session="chat")
    put(tier, 1, 2)
    tier.close(20)
    again = DiskTier(folder, PLENTY, MODEL)
    (id,) = [each.id for each in again.load() if each.session == "chat"]
    again.forget("chat")
    again.forget("no such session")
    idle(again)
    assert again.gone() == [id]
    again.close(20)
    assert stored(folder) == {("fresh", tokens(1, 2)): None}
    assert len(files(folder)) == 1


def test_a_session_is_forgotten_while_it_is_written(folder: Path, tier: DiskTier, stuck: threading.Event) -> None:
    put(tier, 1, session="being written")
    eventually(lambda: tier._ledger.writing)
    put(tier, 2, session="waiting")
    for session in ("being written", "waiting"):
        tier.forget(session)
    put(tier, 3, session="waiting")  # begun again
    stuck.set()
    tier.close(20)
    assert stored(folder) == {("fresh", tokens(3)): "waiting"}
    assert len(files(folder)) == 1


def test_dropped_states_are_deleted(folder: Path, tier: DiskTier, stuck: threading.Event) -> None:
    stuck.set()
    ids = [put(tier, n) for n in range(3)]
    idle(tier)
    stuck.clear()
    put(tier, 9)
    eventually(lambda: tier._ledger.writing)
    waiting = put(tier, 10)
    tier.drop([ids[0], waiting])  # type: ignore[list-item]
    assert get(tier, ids[0]) is None
    assert get(tier, waiting) is None
    stuck.set()
    tier.close(20)
    assert tier.gone() == []  # whoever drops them knows
    assert stored(folder) == {("fresh", tokens(n)): None for n in (1, 2, 9)}


def test_the_budget_holds_for_all_models(folder: Path) -> None:
    budget = 4 * SIZE
    for model in ("b", "c", MODEL):
        tier = DiskTier(folder, budget, model)
        for n in range(9):
            put(tier, n)
        tier.close(20)
        assert tier.states == len(files(folder)) >= 4
        assert budget >= tier.bytes == sum(file.stat().st_size for file in files(folder))
    assert len(tier.gone()) == 9 - len(stored(folder, budget))
    smaller = DiskTier(folder, 2 * SIZE, MODEL)
    smaller.close(20)
    assert smaller.bytes <= 2 * SIZE


def test_the_least_valuable_leaves_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1e9]
    monkeypatch.setattr("time.time", lambda: now[0])
    monkeypatch.setattr(disk_ledger, "TOUCH_SECONDS", 0.0)
    tier = DiskTier(folder, 4 * SIZE + 1000, MODEL)
    names = {
        put(tier, 1): "a session's",
        put(tier, 2, 2, 2, 2): "long and old",
        put(tier, 3, 3): "short and old",
        put(tier, 4): "used",
    }
    put(tier, 1, session="chat")
    idle(tier)
    for _ in range(9):
        tier.touch(next(id for id, name in names.items() if name == "used"))  # type: ignore[arg-type]
    idle(tier)
    now[0] += disk_index.HALF_LIFE * 1.5
    left = []
    for n in range(100, 107):
        names[put(tier, n, n)] = "new"
        idle(tier)
        left += [names[id] for id in tier.gone()]
    tier.close(20)
    assert left[:2] == ["short and old", "long and old"]
    assert "a session's" not in left
    assert ("fresh", tokens(1)) in stored(folder)


def test_what_is_worth_less_than_its_place_is_not_written(folder: Path) -> None:
    tier = DiskTier(folder, 2 * SIZE, MODEL)
    for n in range(4):
        put(tier, *[n] * 50)
    idle(tier)
    tier.gone()
    before = files(folder)
    small = put(tier, 1)
    idle(tier)
    assert tier.gone() == [small]
    assert files(folder) == before
    small = put(tier, 1, session="chat")  # a session's always is
    tier.close(20)
    assert get(DiskTier(folder, 2 * SIZE, MODEL), small) == state(tokens(1))


def test_what_is_larger_than_the_budget_is_not_taken(folder: Path) -> None:
    tier = DiskTier(folder, 1000, MODEL)
    assert put(tier, 1, session="chat") is None
    tier.close(20)


def test_a_full_queue_takes_nothing_but_sessions(
    tier: DiskTier, stuck: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_queue, "MAX_BYTES", 0)
    put(tier, 0)
    eventually(lambda: tier._ledger.writing)
    ids = [put(tier, n) for n in range(1, disk_queue.MAX_STATES + 1)]
    assert None not in ids
    assert put(tier, 99) is None
    assert put(tier, 99, session="chat") is not None
    assert tier.gone() == ids[-1:]
    for n in range(1, disk_queue.MAX_STATES):
        assert put(tier, 99, n, session=f"chat {n}") is not None
    assert put(tier, 99, 99, session="another") is None
    assert put(tier, 7) is None
    monkeypatch.setattr(disk_queue, "MAX_BYTES", SIZE * 100)
    assert put(tier, 7) is not None


def test_writing_outside_sessions_is_limited(tier: DiskTier, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tier.accepts(SIZE, None)
    assert tier._allowance.take(WRITE_BURST)
    monkeypatch.setattr(disk_queue, "WRITE_RATE", 0)
    assert not tier.accepts(SIZE, None)
    assert put(tier, 1) is None
    assert tier.accepts(SIZE, "chat")
    assert put(tier, 1, session="chat") is not None
    assert not tier.accepts(PLENTY + 1, "chat")
    tier.close(20)
    assert not tier.accepts(SIZE, "chat")


def test_the_allowance_is_a_burst_and_a_rate() -> None:
    now = [0.0]
    allowance = WriteAllowance(lambda: now[0])
    assert allowance.take(WRITE_BURST)
    assert not allowance.take(1)
    now[0] += 10
    assert allowance.take(10 * WRITE_RATE)
    assert not allowance.take(WRITE_RATE)
    now[0] += 1e9
    assert allowance.take(WRITE_BURST)
    assert not allowance.take(1)


def test_a_closed_tier_takes_and_gives_nothing(tier: DiskTier) -> None:
    id = put(tier, 1)
    tier.close(20)
    assert put(tier, 2) is None
    assert get(tier, id) is None
    tier.touch("x")
    tier.drop(["x"])
    tier.forget("x")
    tier.close(20)


def test_closing_does_not_wait_for_ever(tier: DiskTier, stuck: threading.Event) -> None:
    put(tier, 1)
    put(tier, 2)
    tier.close(0.01)
    assert tier._ledger.writing is not None


def test_only_the_user_may_read_them(folder: Path, tier: DiskTier) -> None:
    put(tier, 1)
    idle(tier)
    for path in [folder, *folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path

"""Sessions that go on from others share their turns, and each lives as long as it is needed."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from wingbeat.services.session_log import LoggedTurn, Session, SessionConflict, tokens_of
from wingbeat.services.sessions import DAY, SessionStore
from wingbeat.services.turn_tree import next_number, node_id


class Tree:
    """Nodes of the tree `t`, each with one turn of its own: its number, read and written."""

    def __init__(self, path: Path, most: int = 100) -> None:
        self.path = path
        self.now = 1e9
        self.store = SessionStore(path, days=2, most=most, forget=lambda names: None, clock=lambda: self.now)

    async def begin(self, number: int, parent: int = 0, owner: str = "ann") -> Session:
        name = node_id("t", number)
        if not parent:
            return Session(0, owner, name, "fingerprint", "model", "none", 0, 0, 0.0, 0.0)
        before = await self.store.find(owner, node_id("t", parent))
        assert before is not None
        return before.branch(name)

    async def end(self, before: Session) -> Session:
        self.now += 1
        number = int(before.id.partition(":")[2])
        return await self.store.append(before, LoggedTurn([number], [number]))

    async def grow(self, *parents: int) -> None:
        """Nodes 1, 2, ... after these."""
        for number, parent in enumerate(parents, start=1):
            await self.end(await self.begin(number, parent))

    async def log(self, number: int, owner: str = "ann") -> list[int] | None:
        """The numbers of the turns on the way to a node."""
        found = await self.store.find(owner, node_id("t", number))
        if found is None:
            return None
        log = await self.store.read_log(found)
        assert (found.turns, found.tokens) == (len(log), len(tokens_of(log)))
        return [turn.read[0] for turn in log]

    @property
    def turns(self) -> int:
        """How many are on the disk."""
        with sqlite3.connect(self.path) as db:
            (count,) = db.execute("SELECT count(*) FROM turns").fetchone()
        db.close()
        return count


@pytest.fixture
async def tree(tmp_path: Path) -> AsyncIterator[Tree]:
    made = Tree(tmp_path / "sessions.sqlite3")
    yield made
    await made.store.close()


async def test_each_turn_is_kept_once(tree: Tree) -> None:
    await tree.grow(0, 1, 1, 2, 2, 0)
    assert [await tree.log(number) for number in range(1, 7)] == [[1], [1, 2], [1, 3], [1, 2, 4], [1, 2, 5], [6]]
    assert tree.turns == 6


async def test_a_path_costs_no_more_than_its_turns(tree: Tree) -> None:
    await tree.grow(*range(200))
    assert tree.turns == 200
    assert await tree.log(200) == list(range(1, 201))


async def test_a_node_goes_on_by_itself_without_its_branches(tree: Tree) -> None:
    await tree.grow(0, 1)
    first = await tree.store.find("ann", "t:1")
    assert first is not None
    await tree.store.append(first, LoggedTurn([9], [9]))
    assert (await tree.log(1), await tree.log(2)) == ([1, 9], [1, 2])


async def test_deleting_takes_what_nothing_else_needs(tree: Tree) -> None:
    await tree.grow(0, 1, 2, 2)
    await tree.store.delete("ann", "t:2")
    assert (await tree.log(2), await tree.log(3), await tree.log(4), tree.turns) == (None, [1, 2, 3], [1, 2, 4], 4)
    await tree.store.delete("ann", "t:3")
    assert (await tree.log(4), tree.turns) == ([1, 2, 4], 3)
    await tree.store.delete("ann", "t:4")
    assert (await tree.log(1), tree.turns) == ([1], 1)
    await tree.store.delete("ann", "t:1")
    assert tree.turns == 0


async def test_what_expires_leaves_those_that_follow_whole(tree: Tree) -> None:
    await tree.grow(0, 1, 1)
    tree.now += 2 * DAY - 0.5
    await tree.store.sweep()
    assert (await tree.log(1), await tree.log(2), await tree.log(3), tree.turns) == (None, None, [1, 3], 2)


async def test_a_turn_that_was_gone_on_from_was_used(tree: Tree) -> None:
    await tree.grow(0, 0)
    first = await tree.store.find("ann", "t:1")
    assert first is not None
    tree.now += 1
    await tree.store.touch(first)
    assert [session.id for session in await tree.store.newest("ann", 9)] == ["t:1", "t:2"]


async def test_of_too_many_the_oldest_go_and_the_paths_stay(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "sessions.sqlite3", most=2)
    await tree.grow(0, 1, 2, 3)
    assert [await tree.log(number) for number in range(1, 5)] == [None, None, [1, 2, 3], [1, 2, 3, 4]]
    await tree.store.close()


async def test_an_answer_to_what_was_deleted_meanwhile_is_not_kept(tree: Tree) -> None:
    await tree.grow(0)
    before = await tree.begin(2, 1)
    await tree.store.delete("ann", "t:1")
    with pytest.raises(SessionConflict, match="deleted"):
        await tree.end(before)
    assert (await tree.log(2), tree.turns) == (None, 0)


async def test_two_servers_cannot_both_begin_a_node(tree: Tree) -> None:
    await tree.grow(0)
    other = Tree(tree.path)
    mine, theirs = await tree.begin(2, 1), await other.begin(2, 1)
    await other.end(theirs)
    with pytest.raises(SessionConflict, match="another server"):
        await tree.end(mine)
    assert (await tree.log(2), tree.turns) == ([1, 2], 2)
    await other.store.close()


async def test_owners_have_trees_of_their_own(tree: Tree) -> None:
    await tree.grow(0, 1)
    await tree.end(await tree.begin(1, owner="bob"))
    await tree.store.delete("bob", "t:1")
    assert (await tree.log(2), await tree.log(1, "bob")) == ([1, 2], None)


async def test_numbers_follow_those_that_are_kept(tree: Tree) -> None:
    await tree.grow(0, 1, 1)
    await tree.store.delete("ann", "t:2")
    assert (await next_number(tree.store, "ann", "t"), await next_number(tree.store, "bob", "t")) == (4, 1)

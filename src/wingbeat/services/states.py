"""States that clients have the server keep, for an event loop: in a thread of their own, since disks are slow."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from wingbeat.services.database import Database, StorageError
from wingbeat.services.state_index import SCHEMA, VERSION, LoadedInitial, StateIndex
from wingbeat.services.state_shelf import Clock, StateShelf

P = ParamSpec("P")
T = TypeVar("T")

STORED = "stored"
INDEX = "states.sqlite3"
TIDY_SECONDS = 600.0


class StateStore:
    """A `StateShelf` in a folder within `folder`, whose other files are an operator's; the index is beside it."""

    def __init__(self, folder: Path, *, budget: int, life: float, clock: Clock = time.time) -> None:
        self.folder = folder
        self.budget = budget
        self.loaded: list[LoadedInitial] = []
        """The initial states that were loaded at run time, into whichever model."""
        self._stored = folder / STORED
        self._shelf = StateShelf(self._stored, budget=budget, life=life, clock=clock)
        self._database = Database(folder.with_name(INDEX), SCHEMA, VERSION)
        self._tidying: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Does not fail: where folder or index cannot be used, the log says so, and each `run`."""
        with contextlib.suppress(StorageError):
            await self.run(StateShelf.tidy)
            self.loaded = await self.run(StateShelf.loaded)
        self._tidying = asyncio.create_task(self._keep_tidy())

    async def close(self) -> None:
        if self._tidying is not None:
            self._tidying.cancel()
            await asyncio.gather(self._tidying, return_exceptions=True)
        await self._database.close()

    async def run(self, method: Callable[Concatenate[StateShelf, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What a method of `StateShelf` does, done to its end even when who asked is gone. Raises StorageError."""

        def work(connection: sqlite3.Connection) -> T:
            self._stored.mkdir(0o700, parents=True, exist_ok=True)
            self._shelf.index = StateIndex(connection)
            return method(self._shelf, *args, **kwargs)

        return await self._database.run(work)

    async def remember_loaded(self, entry: LoadedInitial) -> None:
        self.loaded = await self.run(StateShelf.remember_loaded, entry)

    async def forget_loaded(self, entry: LoadedInitial) -> None:
        self.loaded = await self.run(StateShelf.forget_loaded, entry)

    async def _keep_tidy(self) -> None:
        while True:
            await asyncio.sleep(TIDY_SECONDS)
            with contextlib.suppress(StorageError):
                await self.run(StateShelf.tidy)

"""Conversations that the server remembers: what is kept of each, whose turn it is, and when it goes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from pathlib import Path
from typing import Any

import structlog

from wingbeat.services import session_log
from wingbeat.services.database import Database, StorageError
from wingbeat.services.queues import Queues
from wingbeat.services.session_log import LoggedTurn, Session, SessionConflict, session_name

SWEEP_SECONDS = 3600.0
DAY = 86400.0

log = structlog.get_logger("wingbeat.sessions")

Forget = Callable[[list[str]], object]
"""Told the names of sessions that are gone."""


class SessionStore:
    """The sessions of all owners in one file.

    ``days``: those that were not used for so long are deleted; 0: none are. ``most``: how many one owner may have; of
    more, the one that was not used for the longest time goes. A session whose turn it is stays.
    """

    def __init__(
        self, path: Path, *, days: float, most: int, forget: Forget, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = Database(path, session_log.SCHEMA, session_log.VERSION, session_log.UPGRADES)
        self._seconds = days * DAY
        self._most = most
        self._forget = forget
        self._clock = clock
        self._queues = Queues()
        self._writes: set[asyncio.Task[None]] = set()

    async def enter(self, name: str) -> None:
        """Wait for the session's turn, for as long as others have theirs; ``leave`` must follow."""
        await self._queues.enter(name)

    def leave(self, name: str) -> None:
        self._queues.leave(name)

    def busy(self, session: Session) -> bool:
        """Whether it is somebody's turn."""
        return self._queues.busy(session.name)

    def held(self, prefix: str) -> list[str]:
        """Names that begin with this one, of sessions where it is somebody's turn."""
        return [name for name in self._queues.names() if name.startswith(prefix)]

    def expires(self, session: Session) -> float | None:
        """When it goes unless it is used before, in seconds since 1970."""
        return session.updated + self._seconds if self._seconds else None

    async def find(self, owner: str, session_id: str) -> Session | None:
        """Raises StorageError, as all that follow."""
        return await self._database.run(lambda db: session_log.find(db, owner, session_id))

    async def read_log(self, session: Session) -> list[LoggedTurn]:
        return await self._database.run(lambda db: session_log.read_log(db, session))

    async def touch(self, session: Session) -> None:
        """Note that the session is used, so that it stays."""
        await self._database.run(lambda db: session_log.touch(db, session, self._clock()))

    async def newest(self, owner: str, limit: int, after: Session | None = None) -> list[Session]:
        """So many of the owner's sessions, the last used first, beginning after ``after``."""
        return await self._database.run(lambda db: session_log.newest(db, owner, limit, after))

    async def below(self, owner: str, session_id: str) -> list[str]:
        """Ids of the owner's sessions that begin with this one and a colon."""
        return await self._database.run(lambda db: session_log.below(db, owner, session_id))

    async def append(self, before: Session, turn: LoggedTurn) -> Session:
        """The session ``before`` with one turn more, which is on the disk when this returns.

        Raises SessionConflict when it is not as it was before, StorageError when nothing was written.
        """
        try:
            after = await self._database.run(lambda db: session_log.append(db, before, turn, self._clock()))
        except SessionConflict:
            self._forget([before.name])  # what the engine kept of this turn, perhaps after the session was deleted
            raise
        if not before.key:
            await self._keep_to_budget(after)
        return after

    async def _keep_to_budget(self, new: Session) -> None:
        spared = {*self._queues.names(), new.name}
        try:
            gone = await self._database.run(lambda db: session_log.delete_beyond(db, new.owner, self._most, spared))
        except StorageError:  # it is in the log; the next new session tries again
            return
        self._dropped(gone, "a key has too many sessions: the least recently used went")

    async def delete(self, owner: str, session_id: str) -> bool:
        """Whether there was such a session. Somebody's turn that runs will not be kept."""
        found = await self._database.run(lambda db: session_log.delete(db, owner, session_id))
        if found:
            self._forget([session_name(owner, session_id)])
        return found

    async def sweep(self) -> None:
        """Delete what was not used for too long."""
        if not self._seconds or not self._database.path.exists():  # many servers have no sessions, and need no file
            return
        since, spared = self._clock() - self._seconds, self._queues.names()
        gone = await self._database.run(lambda db: session_log.delete_unused(db, since, spared))
        self._dropped(gone, "sessions expired")

    async def keep_sweeping(self) -> None:
        """At once, and each hour, until cancelled."""
        while True:
            with contextlib.suppress(StorageError):  # it is in the log
                await self.sweep()
            await asyncio.sleep(SWEEP_SECONDS)

    def in_background(self, work: Coroutine[Any, Any, None], context: Context) -> Awaitable[None]:
        """Begin work, in a context, that goes on whoever waits for it; ``close`` does."""
        task = asyncio.create_task(work, context=context)
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return task

    async def close(self) -> None:
        """Wait for what is being written, and close the file."""
        await asyncio.gather(*self._writes, return_exceptions=True)
        await self._database.close()

    def _dropped(self, names: list[str], why: str) -> None:
        if names:
            log.info(why, count=len(names))
            self._forget(names)

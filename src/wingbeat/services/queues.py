"""Turns that must not run beside each other: first come, first served, by name."""

from __future__ import annotations

import asyncio
import collections


class Queues:
    """A queue for each name that anybody holds or waits for; the others cost nothing."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: collections.Counter[str] = collections.Counter()

    def busy(self, name: str) -> bool:
        """Whether anybody holds it or waits for it."""
        return name in self._locks

    def names(self) -> frozenset[str]:
        """Those that are busy."""
        return frozenset(self._locks)

    async def enter(self, name: str) -> None:
        """Wait for the turn of who asks; ``leave`` must follow. Cancelled: gives the place up."""
        lock = self._locks.setdefault(name, asyncio.Lock())  # wakes its waiters in order
        self._users[name] += 1
        try:
            await lock.acquire()
        except BaseException:
            self._forget(name)
            raise

    def leave(self, name: str) -> None:
        """The next one's turn."""
        self._locks[name].release()
        self._forget(name)

    def _forget(self, name: str) -> None:
        self._users[name] -= 1
        if not self._users[name]:
            del self._users[name], self._locks[name]

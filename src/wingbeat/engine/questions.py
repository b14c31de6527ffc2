"""Questions to the engine's process, each by its number, and those who wait for the answers."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class Questions(Generic[Answer]):
    """All methods belong to one event loop."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Answer]] = {}

    async def ask(self, send: Callable[[int], None]) -> Answer:
        """Have ``send`` ask with a number of its own, and wait. Raises what ``answer`` gives as an exception, or
        ConnectionError when the engine ends meanwhile."""
        number = next(self._numbers)
        waiting = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            send(number)
            return await waiting
        finally:
            del self._asked[number]

    def answer(self, number: int, answer: Answer | Exception) -> bool:
        """Take the engine's answer. Whether somebody still waits for it."""
        waiting = self._asked.get(number)
        if waiting is None or waiting.done():
            return waiting is not None
        if isinstance(answer, Exception):
            waiting.set_exception(answer)
        else:
            waiting.set_result(answer)
        return True

    def lose(self, error: str) -> None:
        """The engine is gone."""
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_exception(ConnectionError(error))

"""Constraints that the engine is asked to compile before a request goes out, as its client sees them."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from wingbeat.engine.messages import Compile, Compiled
from wingbeat.sampling.constraint import Constraint, ConstraintError

MOST_REMEMBERED = 1024
"""Good constraints that are known by the digest of their content."""


class Compilations:
    """Asks the engine by ``send``, once for each constraint."""

    def __init__(self, send: Callable[[Compile], None]) -> None:
        self._send = send
        self._ids = itertools.count(1)
        self._asked: dict[int, asyncio.Future[bool]] = {}
        self._good: OrderedDict[bytes, bool] = OrderedDict()

    async def compile(self, constraint: Constraint) -> bool:
        """Whether a text of this form may begin with white space.

        Raises ConstraintError with the engine's words when it refuses, ConnectionError when it cannot say.
        """
        constraint.check()
        digest = hashlib.sha256(msgspec.msgpack.encode(constraint)).digest()
        if digest in self._good:
            self._good.move_to_end(digest)
            return self._good[digest]
        command = Compile(next(self._ids), constraint)
        answer = self._asked[command.id] = asyncio.get_running_loop().create_future()
        try:
            self._send(command)
            self._good[digest] = await answer
        finally:
            del self._asked[command.id]
        if len(self._good) > MOST_REMEMBERED:
            self._good.popitem(last=False)
        return answer.result()

    def take(self, event: Compiled) -> None:
        """The engine's answer."""
        answer = self._asked.get(event.id)
        if answer is None or answer.done():  # whoever asked has left
            return
        if event.error is None:
            answer.set_result(event.begins_white)
        else:
            answer.set_exception(ConnectionError(event.error) if event.away else ConstraintError(event.error))

    def lose(self, error: str) -> None:
        """The engine is gone; the next one may have another model, whose tokens fit other grammars."""
        self._good.clear()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(ConnectionError(error))

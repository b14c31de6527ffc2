"""Constraints that the engine is asked to compile before a request goes out, as its client sees them."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from wingbeat.engine.messages import Compile, Compiled
from wingbeat.engine.questions import Questions
from wingbeat.sampling.constraint import Constraint, ConstraintError

MOST_REMEMBERED = 1024
"""Good constraints that are known by the digest of their content."""


class Compilations:
    """Asks the engine by ``send``, once for each constraint."""

    def __init__(self, send: Callable[[Compile], None]) -> None:
        self._send = send
        self._questions = Questions[bool]()
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
        begins_white = await self._questions.ask(lambda number: self._send(Compile(number, constraint)))
        self._good[digest] = begins_white
        if len(self._good) > MOST_REMEMBERED:
            self._good.popitem(last=False)
        return begins_white

    def take(self, event: Compiled) -> None:
        """The engine's answer."""
        if event.error is None:
            self._questions.answer(event.id, event.begins_white)
        else:
            error = ConnectionError(event.error) if event.away else ConstraintError(event.error)
            self._questions.answer(event.id, error)

    def lose(self, error: str) -> None:
        """The engine is gone; the next one may have another model, whose tokens fit other grammars."""
        self._good.clear()
        self._questions.lose(error)

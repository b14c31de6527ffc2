"""Initial states that are loaded, dropped or made the default while the engine runs, as its client sees them."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable

from wingbeat.engine.messages import LoadState, Ready, StateLoaded

log = logging.getLogger(__name__)


class LateStates:
    """Asks the engine by ``send``, and again after each start: a new process knows only those of its configuration."""

    def __init__(self, send: Callable[[LoadState], None]) -> None:
        self._send = send
        self._ids = itertools.count(1)
        self._asked: dict[int, asyncio.Future[None]] = {}
        self._loaded: dict[str, LoadState] = {}
        self.names: list[str] = []
        self.default = "none"

    async def load(self, name: str, path: str | None, *, default: bool) -> None:
        """Raises ValueError with the engine's words when it refuses, ConnectionError when it ends meanwhile."""
        command = LoadState(next(self._ids), name, path, default)
        answer = self._asked[command.id] = asyncio.get_running_loop().create_future()
        try:
            self._send(command)
            await answer
        finally:
            del self._asked[command.id]
        if path is None:
            self._loaded.pop(name, None)
        else:
            self._loaded[name] = command

    def ready(self, event: Ready) -> None:
        """The engine was started."""
        self.names, self.default = event.states, event.default_state
        for command in self._loaded.values():
            self._send(command)

    def take(self, event: StateLoaded) -> None:
        """The engine's answer."""
        self.names, self.default = event.states, event.default
        answer = self._asked.get(event.id)
        if answer is None:  # of a start after a crash
            if event.error is not None:
                log.error("an initial state is lost: %s", event.error)
        elif not answer.done():
            answer.set_exception(ValueError(event.error)) if event.error is not None else answer.set_result(None)

    def lose(self, error: str) -> None:
        """The engine is gone."""
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(ConnectionError(error))

"""Initial states that are loaded, dropped or made the default while the engine runs, as its client sees them."""

from __future__ import annotations

import logging
from collections.abc import Callable

from wingbeat.engine.messages import LoadState, Ready, StateLoaded
from wingbeat.engine.questions import Questions

log = logging.getLogger(__name__)

NOBODY = 0  # the number of what nobody waits for


class LateStates:
    """Asks the engine by ``send``, and again after each start: a new process knows only those of its configuration."""

    def __init__(self, send: Callable[[LoadState], None]) -> None:
        self._send = send
        self._questions = Questions[None]()
        self._loaded: dict[str, LoadState] = {}
        self.names: list[str] = []
        self.default = "none"

    async def load(self, name: str, path: str | None, *, default: bool) -> None:
        """Raises ValueError with the engine's words when it refuses, ConnectionError when it ends meanwhile."""
        await self._questions.ask(lambda number: self._send(LoadState(number, name, path, default)))
        if path is None:
            self._loaded.pop(name, None)
        else:
            self._loaded[name] = LoadState(NOBODY, name, path, default)

    def ready(self, event: Ready) -> None:
        """The engine was started."""
        self.names, self.default = event.states, event.default_state
        for command in self._loaded.values():
            self._send(command)

    def take(self, event: StateLoaded) -> None:
        """The engine's answer."""
        self.names, self.default = event.states, event.default
        waited_for = self._questions.answer(event.id, None if event.error is None else ValueError(event.error))
        if event.error is not None and not waited_for:  # of a start after a crash
            log.error("an initial state is lost: %s", event.error)

    def lose(self, error: str) -> None:
        """The engine is gone."""
        self._questions.lose(error)

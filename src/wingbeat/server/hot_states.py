"""Tuned initial states that clients load while the server runs, beside those it was started with.

The index of states remembers them. The engine is given one when it is first asked for, so that they are there again
after a restart, and after another model was served in between.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from wingbeat.engine.client import EngineUnavailable
from wingbeat.server.errors import ApiError, bad_request, unavailable
from wingbeat.server.owner import owner
from wingbeat.server.registry import ServedModel
from wingbeat.server.state_errors import state_errors, state_not_found
from wingbeat.services.state_index import LoadedInitial
from wingbeat.services.state_shelf import StateShelf
from wingbeat.services.states import StateStore

OF_EVERY_MODEL = ("none", "internal")
"""What the engine calls the fresh state, and that of the model's own file."""


class HotStates:
    """A key sees those it has loaded itself, and those that the server was started with."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._loading = asyncio.Lock()

    def own(self, model: ServedModel) -> list[LoadedInitial]:
        """What the client of this request has loaded into `model`, but for names that the server took later."""
        whose, given = owner(), self.given(model)
        return [
            each
            for each in self._store.loaded
            if each.owner == whose and each.fingerprint == model.fingerprint and each.name not in given
        ]

    def given(self, model: ServedModel) -> list[str]:
        """The names of those that the server was started with, and of the fresh state."""
        return [name for name in model.client.states if name in model.config.states or name in OF_EVERY_MODEL]

    def names(self, model: ServedModel) -> list[str]:
        """All that the client of this request can name."""
        return [*self.given(model), *(each.name for each in self.own(model))]

    def default_name(self, model: ServedModel) -> str:
        """Of the one for this client's requests that name none."""
        own = next((each.name for each in self.own(model) if each.is_default), None)
        return own or model.client.default_state

    async def default(self, model: ServedModel) -> str | None:
        """The engine's name of what this client has made the default. Raises ApiError as `find`."""
        entry = next((each for each in self.own(model) if each.is_default), None)
        return None if entry is None else await self._ensure(entry, model)

    async def find(self, given: str, model: ServedModel) -> str | None:
        """The engine's name of the state that the client calls so, or which it has loaded of the kept state `given`.

        Raises ApiError: 400 when it can be loaded no more, 503 when the engine is away.
        """
        for entry in self.own(model):
            if given in (entry.name, entry.state_id):
                return await self._ensure(entry, model)
        return given if given in self.given(model) else None

    async def load(self, entry: LoadedInitial, model: ServedModel) -> None:
        """Load it, in the place of one that the client has loaded under that name.

        Raises ApiError: 409 for a name of the server's own, 400 for a file that does not fit, 503.
        """
        if entry.name in self.given(model):
            message = f"name: the server was started with an initial state {entry.name!r}: choose another name."
            raise ApiError(409, message, param="name", code="name_taken")
        async with self._loading:
            before = next((each for each in self.own(model) if each.name == entry.name), None)
            if before is not None and before.is_default and not entry.is_default:
                await self._drop(before, model)  # the engine forgets a default only with the state
            await self._give(entry, model)
            with state_errors("name"):
                await self._store.remember_loaded(entry)

    async def drop(self, name: str, model: ServedModel) -> None:
        """Raises ApiError: 404 when the client has loaded none of that name, 503."""
        entry = next((each for each in self.own(model) if each.name == name), None)
        if entry is None:
            raise state_not_found(name, "name")
        async with self._loading:
            await self._drop(entry, model)

    async def _drop(self, entry: LoadedInitial, model: ServedModel) -> None:
        with state_errors("name"):
            await self._store.forget_loaded(entry)
        if _internal(entry) in model.client.states:
            await _tell_engine(model, _internal(entry), None)

    async def _ensure(self, entry: LoadedInitial, model: ServedModel) -> str:
        async with self._loading:
            if _internal(entry) not in model.client.states:
                await self._give(entry, model)
        return _internal(entry)

    async def _give(self, entry: LoadedInitial, model: ServedModel) -> None:
        path = Path(entry.path)
        if entry.state_id:
            with state_errors("state"):
                record = await self._store.run(StateShelf.find, entry.owner, entry.state_id)
                if record is None:
                    raise state_not_found(entry.state_id, "state")
                path = await self._store.run(StateShelf.path, record)
        await _tell_engine(model, _internal(entry), path, default=entry.is_default and not entry.owner)


def _internal(entry: LoadedInitial) -> str:
    """The engine's name: keys do not meet each other's."""
    return f"{entry.owner}:{entry.name}" if entry.owner else entry.name


async def _tell_engine(model: ServedModel, name: str, path: Path | None, *, default: bool = False) -> None:
    try:
        await model.client.load_state(name, None if path is None else str(path), default=default)
    except ValueError as error:
        told = str(error) if path is None else str(error).replace(str(path), path.name)
        raise bad_request(f"state: {told}.", "state", "state_refused") from None
    except EngineUnavailable as away:
        raise unavailable(str(away)) from None

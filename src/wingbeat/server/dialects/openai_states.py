"""`return_state`: the states of a request's answers, given to the client as ids or as files in base64."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from math import prod
from typing import Any, Literal

import structlog

from wingbeat.engine.messages import RowOutput
from wingbeat.server.dialects.openai_schema import GenerationBody
from wingbeat.server.errors import ApiError, bad_request
from wingbeat.server.owner import owner
from wingbeat.server.registry import ServedModel, Start
from wingbeat.server.state_errors import state_errors
from wingbeat.services.state_files import OPENING
from wingbeat.services.state_shelf import New, StateShelf
from wingbeat.services.states import StateStore

log = structlog.get_logger("wingbeat.server")

FIELD = "return_state"
_HEADER_BYTES = 2**16  # what a file has beside its arrays, and more


class ReturnedStates:
    """The states of one generation's rows: taken as rows end, then kept, then told with each choice."""

    def __init__(self, store: StateStore, model: ServedModel, form: Literal["id", "base64"]) -> None:
        self._store = store
        self._model = model
        self._form = form
        self._owner = owner()
        self._taken: dict[int, New] = {}
        self._given: dict[int, str] = {}
        self._failed: dict[int, str] = {}

    async def check_room(self, count: int) -> None:
        """Raises ApiError (413) when so many states could not be kept: better now than when they are there."""
        if self._form == "id":
            with state_errors(FIELD):
                await self._store.run(StateShelf.check_room, self._owner, count * state_bytes(self._model))

    def take(self, row: RowOutput, opening: str) -> None:
        """The last output of a row. `opening` is what a prompt would end with after which the answer goes on."""
        if row.extras is not None and row.extras.state is not None:
            self._taken[row.row] = (row.extras.state, {OPENING: opening} if opening else {})

    async def give(self, rows: Iterable[int] | None = None) -> None:
        """Keep or encode what was taken, of these rows or all. Where that fails the answers are told without."""
        wanted = {row: self._taken.pop(row) for row in list(self._taken) if rows is None or row in rows}
        try:
            with state_errors(FIELD):
                self._given.update(zip(wanted, await self._keep(list(wanted.values())), strict=True))
        except ApiError as error:
            log.warning("states of answers are lost", error=error.message)
            self._failed.update(dict.fromkeys(wanted, error.message))

    async def _keep(self, states: list[New]) -> list[str]:
        if self._form == "id":
            kept = await self._store.run(StateShelf.keep, self._owner, states, self._model.name)
            return [record.id for record in kept]
        files = [await self._store.run(StateShelf.encode, state, self._model.name) for state in states]
        return [base64.b64encode(file).decode() for file in files]

    def field(self, row: int) -> dict[str, Any]:
        """What a choice says of its state."""
        failed = {"state_error": self._failed[row]} if row in self._failed else {}
        return {"state": self._given.get(row), **failed}


async def returned_states(
    body: GenerationBody, store: StateStore, model: ServedModel, count: int
) -> ReturnedStates | None:
    """For the `count` states that the client asks for; None when it does not. Raises ApiError (413)."""
    if not body.return_state:
        return None
    states = ReturnedStates(store, model, "base64" if body.return_state == "base64" else "id")
    await states.check_room(count)
    return states


def check_goes_on(start: Start) -> None:
    """Raises ApiError (400) unless an answer can go on from there with no new words."""
    if start.state is None or start.state.logits is None:
        problem = "it does not know what comes next, so it needs words to go on with"
        raise bad_request(f"state: {problem}.", "state", "state_refused")


def state_bytes(model: ServedModel) -> int:
    """About as many as the file of a state of `model` has."""
    values = sum(map(prod, model.info["state_shapes"].values())) + model.vocab_size
    return 4 * values + _HEADER_BYTES

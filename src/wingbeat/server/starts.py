"""The field `state`: from what a request names to where its sequences begin."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from wingbeat.server.body import run_sized
from wingbeat.server.errors import ApiError, bad_request
from wingbeat.server.hot_states import HotStates
from wingbeat.server.owner import owner
from wingbeat.server.registry import ServedModel, Start
from wingbeat.server.state_errors import state_errors
from wingbeat.services.recent_states import KeptState
from wingbeat.services.state_files import OPENING, StateRefusedError, model_of
from wingbeat.services.state_index import StateRecord
from wingbeat.services.state_shelf import StateShelf
from wingbeat.services.states import StateStore

LONGEST_NAME = 255
"""Characters of a file's name. What is longer can only be a state itself, in base64."""


class Starts:
    """Finds what `state` names: an initial state, a kept state by id or name, a file in the folder of states, or a
    state in base64; in this order."""

    def __init__(self, store: StateStore, hot: HotStates) -> None:
        self._store = store
        self._hot = hot

    async def find(self, given: str | None, model: ServedModel) -> Start:
        """Where a sequence of `model` begins.

        Raises ApiError: 404 when there is no such state, 400 when it cannot be used, 503 when states cannot be read.
        """
        if given is None:
            return Start(initial=await self._hot.default(model))
        initial = await self._hot.find(given, model)
        if initial is not None:
            return Start(initial=initial)
        with state_errors("state"):
            kept = await self._kept(given)
        if kept is None:
            raise self._unknown(given, model)
        return _checked(kept, model)

    def default_name(self, model: ServedModel) -> str:
        """What the client calls the initial state of its requests that name none."""
        return self._hot.default_name(model)

    async def _kept(self, given: str) -> KeptState | None:
        if len(given) > LONGEST_NAME:
            return await self._decoded(given)
        record = await self._store.run(StateShelf.find, owner(), given)
        if record is not None:
            return await self._read(record)
        file = file_in(self._store.folder, given)
        return None if file is None else await self._store.run(StateShelf.read_file, file)

    async def _read(self, record: StateRecord) -> KeptState | None:
        if record.kind == "initial":
            raise StateRefusedError(
                f"{record.name or record.id!r} is the file of a tuned initial state: load it with POST /v1/states/load"
            )
        return await self._store.run(StateShelf.read, record)

    async def _decoded(self, given: str) -> KeptState:
        try:
            data = await run_sized(len(given), base64.b64decode, "".join(given.split()), validate=True)
        except binascii.Error:
            raise StateRefusedError("this is too long for a name, and it is no base64") from None
        return await self._store.run(StateShelf.decode, data)

    def _unknown(self, given: str, model: ServedModel) -> ApiError:
        known = ", ".join(self._hot.names(model))
        message = (
            f"state: there is no initial state {given!r}; there are {known}. Nor is it the id or the name of a state "
            "that was kept (GET /v1/states lists them), or a file in the server's folder of states."
        )
        return ApiError(404, message, param="state", code="state_not_found")


def file_in(folder: Path, name: str) -> Path | None:
    """A file by its bare name; None when there is none, or the name leads elsewhere."""
    if not name or Path(name).name != name or "\0" in name or "\\" in name or len(name.encode()) > LONGEST_NAME:
        return None
    path = folder / name
    return path if path.is_file() else None


def _checked(kept: KeptState, model: ServedModel) -> Start:
    """Raises ApiError (400) for a state that does not fit `model`."""
    snapshot = kept.snapshot
    if snapshot.fingerprint != model.fingerprint:
        made_by = model_of(kept.extra) or "another model"
        message = (
            f"state: it was made by {made_by} (fingerprint {snapshot.fingerprint[:12]}), and this model is "
            f"{model.name} ({model.fingerprint[:12]}): a state fits only the model that made it."
        )
        raise bad_request(message, "state", "state_of_another_model")
    wanted = {name: list(shape) for name, shape in model.info["state_shapes"].items()}
    logits = None if snapshot.logits is None else snapshot.logits.shape
    if {name: field.shape for name, field in snapshot.arrays.items()} != wanted or logits not in (
        None,
        [model.vocab_size],
    ):
        message = f"state: its fields are not those of a state of {model.name}."
        raise bad_request(message, "state", "state_refused")
    if snapshot.continuation is not None and not snapshot.continuation.possible(model.vocab_size):
        raise bad_request("state: what it says of its answer cannot be.", "state", "state_refused")
    return Start(state=snapshot, key=kept.checksum, opening=kept.extra.get(OPENING, ""))

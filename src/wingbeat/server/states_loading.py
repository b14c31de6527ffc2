"""`/v1/states/load`: tuned initial states, loaded into the model that is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from wingbeat.config import Settings
from wingbeat.server.body import read_model
from wingbeat.server.dialects.openai_replies import ERRORS, ErrorReply
from wingbeat.server.errors import ApiError, bad_request
from wingbeat.server.hot_states import HotStates
from wingbeat.server.openapi import body_of
from wingbeat.server.owner import owner
from wingbeat.server.registry import ModelRegistry, ServedModel
from wingbeat.server.starts import file_in
from wingbeat.server.state_errors import state_errors, state_not_found
from wingbeat.server.states_schema import InitialState, InitialStateDropped, InitialStateList, LoadStateBody
from wingbeat.services.state_index import LoadedInitial
from wingbeat.services.state_shelf import StateShelf, check_name
from wingbeat.services.states import StateStore

_ERRORS: dict[int | str, dict[str, Any]] = {
    **{code: ERRORS[code] for code in (400, 401, 413, 415, 429, 503)},
    403: {"model": ErrorReply, "description": "This server loads no files of its own for clients."},
    404: {"model": ErrorReply, "description": "There is no such state."},
    409: {"model": ErrorReply, "description": "The name is one of the server's own states."},
}


def states_loading_router(
    registry: ModelRegistry, store: StateStore, hot: HotStates, settings: Settings, max_body: int
) -> APIRouter:
    """The routes, without their prefix. They come before those of `/states/{state_id}`."""
    router = APIRouter(prefix="/states/load", tags=["States"])

    @router.get("", response_model=InitialStateList, responses={code: ERRORS[code] for code in (401, 503)})
    async def list_loaded() -> Response:
        """The initial states that requests of this key can name."""
        model = _ready(registry)
        own = {entry.name: entry for entry in hot.own(model)}
        default = hot.default_name(model)
        return JSONResponse(
            {"object": "list", "data": [_shown(name, own.get(name), name == default) for name in hot.names(model)]}
        )

    @router.post("", response_model=InitialState, responses=_ERRORS, openapi_extra=body_of(LoadStateBody))
    async def load(request: Request) -> Response:
        """Load a tuned initial state into the model that is served, at once and for good; see `state` of requests."""
        body = await read_model(request, LoadStateBody, max_body)
        body.check()
        model = _ready(registry)
        entry = await _entry(body, model)
        await hot.load(entry, model)
        return JSONResponse(_shown(entry.name, entry, hot.default_name(model) == entry.name))

    @router.delete("/{name}", response_model=InitialStateDropped, responses={k: _ERRORS[k] for k in (401, 404, 503)})
    async def drop(name: str) -> Response:
        """Drop an initial state that this key has loaded."""
        await hot.drop(name, _ready(registry))
        return JSONResponse({"name": name, "object": "initial_state", "deleted": True})

    async def _entry(body: LoadStateBody, model: ServedModel) -> LoadedInitial:
        if body.state_id is not None:
            with state_errors("state_id"):
                record = await store.run(StateShelf.find, owner(), body.state_id)
            if record is None:
                raise state_not_found(body.state_id, "state_id")
            if record.kind != "initial":
                message = "state_id: this is the state of a sequence, which requests name in `state` as it is."
                raise bad_request(message, "state_id", "state_refused")
            name, state_id, path = body.name or record.name or record.id, record.id, ""
        else:
            path = str(_servers_file(body.file or "", settings))
            name, state_id = body.name or Path(path).stem, ""
        if not (body.name is None and name == state_id):
            with state_errors("name"):
                check_name(name)
        return LoadedInitial(owner(), name, model.fingerprint, state_id, path, body.default)

    return router


def _ready(registry: ModelRegistry) -> ServedModel:
    model = registry.first
    model.check_ready()
    return model


def _servers_file(name: str, settings: Settings) -> Path:
    """Raises ApiError: 403 where clients may not load files of the server, 404 when there is no such file."""
    if not settings.allow_load:
        message = "This server loads no files of its own for clients: upload the state, or start it with --allow-load."
        raise ApiError(403, message, param="file", code="loading_not_allowed")
    for folder in (settings.states_folder, settings.models_folder):
        path = file_in(folder, name)
        if path is not None:
            return path.absolute()
    message = f"file: there is no file {name[:100]!r} in the folder of states or in the models folder."
    raise ApiError(404, message, param="file", code="state_not_found")


def _shown(name: str, entry: LoadedInitial | None, default: bool) -> dict[str, Any]:
    return {
        "name": name,
        "object": "initial_state",
        "default": default,
        "state_id": (entry.state_id if entry else "") or None,
        "file": (Path(entry.path).name if entry else "") or None,
    }

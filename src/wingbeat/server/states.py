"""`/v1/states`: states that clients keep, load, list, rename, delete, and send to and fro as files."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from wingbeat.server.body import read_model
from wingbeat.server.dialects.openai_replies import ERRORS, ErrorReply
from wingbeat.server.errors import ApiError, bad_request
from wingbeat.server.openapi import body_of
from wingbeat.server.owner import owner
from wingbeat.server.session_states import SessionStates
from wingbeat.server.state_errors import state_errors, state_not_found
from wingbeat.server.state_uploads import keep_base64, keep_stream
from wingbeat.server.states_schema import (
    MAX_PAGE,
    LoadStateBody,
    RenameBody,
    SaveBody,
    StateDeleted,
    StateList,
    StateObject,
    shown,
)
from wingbeat.services.state_index import Kind, StateRecord
from wingbeat.services.state_shelf import StateShelf
from wingbeat.services.states import StateStore

BINARY = ("application/octet-stream", "application/x-safetensors")
BODY_TIMES = 4
"""A state in base64 may be so much larger than other bodies."""

SCHEMAS = (SaveBody, RenameBody, LoadStateBody)
"""Models that the OpenAPI document needs beside those that FastAPI finds by itself."""

_FOUND: dict[int | str, dict[str, Any]] = {
    **{code: ERRORS[code] for code in (401, 503)},
    404: {"model": ErrorReply, "description": "There is no such state."},
}
_CHANGED: dict[int | str, dict[str, Any]] = {
    **_FOUND,
    **{code: ERRORS[code] for code in (400, 413, 415, 429)},
    409: {"model": ErrorReply, "description": "The name is taken."},
}
_FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {BINARY[0]: {"schema": {"type": "string", "format": "binary"}}}, "description": "The file."}
}


def states_router(store: StateStore, sessions: SessionStates, max_body: int) -> APIRouter:
    """The routes, without their prefix."""
    router = APIRouter(prefix="/states", tags=["States"])

    @router.get("", response_model=StateList, responses={400: ERRORS[400], **_FOUND})
    async def list_states(
        limit: str = Query("20", description=f"1 to {MAX_PAGE}."),
        after: str | None = Query(None, description="The id behind which the list goes on."),
    ) -> Response:
        """The states that this key has kept, the newest first."""
        count = int(limit) if limit.isascii() and limit.isdigit() and len(limit) < 10 else 0
        if not 1 <= count <= MAX_PAGE:
            raise bad_request(f"limit: must be from 1 to {MAX_PAGE}.", "limit")
        last = None if after is None else await find(after, "after")
        with state_errors("state"):
            page = await store.run(StateShelf.page, owner(), count + 1, last)
        listed = [shown(record) for record in page[:count]]
        return JSONResponse(
            {
                "object": "list",
                "data": listed,
                "first_id": listed[0]["id"] if listed else None,
                "last_id": listed[-1]["id"] if listed else None,
                "has_more": len(page) > count,
            }
        )

    @router.post("", response_model=StateObject, responses=_CHANGED, openapi_extra=_either(SaveBody))
    async def keep_state(
        request: Request,
        name: str | None = Query(None, description="Of a file that is the body."),
        kind: str = Query("snapshot", description="Of a file that is the body: `snapshot` or `initial`."),
        filename: str | None = Query(None, description="Of an initial state: tells its format."),
    ) -> Response:
        """Keep a state: the file in the body, or what the JSON in the body says."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() in BINARY:
            record = await keep_stream(request, store, _kind(kind), filename, name or None)
            return JSONResponse(shown(record))
        body = await read_model(request, SaveBody, BODY_TIMES * max_body)
        body.check()
        if body.state is not None:
            return JSONResponse(shown(await keep_base64(store, body.state, body.kind, body.filename, body.name)))
        if body.session_id is not None:
            snapshot, model = await sessions.read(request, body.session_id)
            with state_errors("name"):
                (record,) = await store.run(StateShelf.keep, owner(), [(snapshot, {})], model, body.name)
            return JSONResponse(shown(record))
        source = await find(body.state_id or "", "state_id")
        with state_errors("name"):
            return JSONResponse(shown(await store.run(StateShelf.copy, source, body.name)))

    @router.get("/{state_id}", response_model=StateObject, responses=_FOUND)
    async def get_state(state_id: str) -> Response:
        """One state, by its id or its name."""
        return JSONResponse(shown(await find(state_id)))

    @router.get("/{state_id}/download", response_class=FileResponse, include_in_schema=False)
    @router.get("/{state_id}/content", response_class=FileResponse, responses={**_FILE, **_FOUND})
    async def download(state_id: str) -> Response:
        """The state's file."""
        record = await find(state_id)
        with state_errors("state"):
            path = await store.run(StateShelf.path, record)
            there = await store.run(lambda _: path.is_file())
        if not there:
            raise state_not_found(state_id, "state")
        name = quote(f"{record.name or record.id}{record.suffix}", safe="")
        headers = {"content-disposition": f"attachment; filename*=utf-8''{name}"}
        return FileResponse(path, media_type=BINARY[0], headers=headers)

    @router.patch("/{state_id}", response_model=StateObject, responses=_CHANGED, openapi_extra=body_of(RenameBody))
    @router.post("/{state_id}", include_in_schema=False)
    async def rename(request: Request, state_id: str) -> Response:
        """Give a state another name."""
        body = await read_model(request, RenameBody, max_body)
        record = await find(state_id)
        with state_errors("name"):
            return JSONResponse(shown(await store.run(StateShelf.rename, record, body.name)))

    @router.delete("/{state_id}", response_model=StateDeleted, responses=_CHANGED)
    async def delete(state_id: str) -> Response:
        """Delete a state."""
        record = await find(state_id)
        loaded = next((entry.name for entry in store.loaded if entry.state_id == record.id), None)
        if loaded is not None:
            message = f"state: it is loaded as {loaded!r}: drop that first with DELETE /v1/states/load/{loaded}."
            raise ApiError(409, message, param="state", code="state_in_use")
        with state_errors("state"):
            await store.run(StateShelf.remove, record)
        return JSONResponse({"id": record.id, "object": "state", "deleted": True})

    async def find(reference: str, param: str = "state") -> StateRecord:
        """Raises ApiError: 404 when this key has no such state."""
        with state_errors(param):
            record = await store.run(StateShelf.find, owner(), reference)
        if record is None:
            raise state_not_found(reference, param)
        return record

    return router


def _kind(text: str) -> Kind:
    if text == "snapshot" or text == "initial":
        return text
    raise bad_request("kind: must be 'snapshot' or 'initial'.", "kind")


def _either(body: type[SaveBody]) -> dict[str, Any]:
    """`openapi_extra` of a route that takes a file, too."""
    described = body_of(body)
    described["requestBody"]["content"][BINARY[0]] = {"schema": {"type": "string", "format": "binary"}}
    return described

"""GET and DELETE /v1/sessions: the sessions of whoever asks. Requests that generate begin and continue them."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from wingbeat.server.dialects.openai_replies import ERRORS, ErrorReply, Exact
from wingbeat.server.errors import ApiError, bad_request
from wingbeat.server.owner import owner
from wingbeat.server.session_turn import cannot_be_read
from wingbeat.services.database import StorageError
from wingbeat.services.session_log import Session
from wingbeat.services.sessions import SessionStore

DEFAULT_LIMIT, MAX_LIMIT = 20, 100

_ERRORS: dict[int | str, dict[str, Any]] = {
    401: ERRORS[401],
    503: {"model": ErrorReply, "description": "The sessions cannot be read now."},
}
_NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": ErrorReply, "description": "No such session."}}
_PAGING = {
    "parameters": [
        {
            "name": "limit",
            "in": "query",
            "description": "Sessions to list at most.",
            "schema": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
        },
        {
            "name": "after",
            "in": "query",
            "description": "Id of the last one of the page before.",
            "schema": {"type": "string"},
        },
    ]
}


class SessionCard(Exact):
    """A session. Times are seconds since 1970; `expires` is when it goes unless it is used before."""

    id: str
    object: Literal["session"]
    model: str
    state: str
    tokens: int
    turns: int
    created: int
    updated: int
    expires: int | None
    busy: bool


class SessionList(Exact):
    object: Literal["list"]
    data: list[SessionCard]
    has_more: bool


class SessionDeleted(Exact):
    id: str
    object: Literal["session"]
    deleted: Literal[True]


def sessions_router(store: SessionStore) -> APIRouter:
    """The routes, without their prefix."""
    router = APIRouter(prefix="/sessions", tags=["Sessions"])

    @router.get(
        "", response_model=SessionList, responses={**_ERRORS, 400: ERRORS[400], **_NOT_FOUND}, openapi_extra=_PAGING
    )
    async def list_sessions(request: Request) -> Response:
        """Your sessions, the last used first."""
        limit, after = _limit(request.query_params.get("limit")), request.query_params.get("after")
        try:
            place = None if after is None else await _find(after)
            found = await store.newest(owner(), limit + 1, place)
        except StorageError as error:
            raise cannot_be_read(error) from None
        cards = [_card(session) for session in found[:limit]]
        return JSONResponse({"object": "list", "data": cards, "has_more": len(found) > limit})

    @router.get("/{session_id:path}", response_model=SessionCard, responses={**_ERRORS, **_NOT_FOUND})
    async def get_session(session_id: str) -> Response:
        """One of your sessions."""
        try:
            return JSONResponse(_card(await _find(session_id)))
        except StorageError as error:
            raise cannot_be_read(error) from None

    @router.delete("/{session_id:path}", response_model=SessionDeleted, responses={**_ERRORS, **_NOT_FOUND})
    async def delete_session(session_id: str) -> Response:
        """Forget a session. An answer that is being written for it is not kept."""
        try:
            found = await store.delete(owner(), session_id)
        except StorageError as error:
            raise cannot_be_read(error) from None
        if not found:
            raise _unknown(session_id)
        return JSONResponse({"id": session_id, "object": "session", "deleted": True})

    async def _find(session_id: str) -> Session:
        session = await store.find(owner(), session_id)
        if session is None:
            raise _unknown(session_id)
        return session

    def _card(session: Session) -> dict[str, Any]:
        expires = store.expires(session)
        return {
            "id": session.id,
            "object": "session",
            **{name: getattr(session, name) for name in ("model", "state", "tokens", "turns")},
            "created": int(session.created),
            "updated": int(session.updated),
            "expires": None if expires is None else int(expires),
            "busy": store.busy(session),
        }

    return router


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if text.isascii() and text.isdigit() and len(text) < 5 and 1 <= int(text) <= MAX_LIMIT:
        return int(text)
    raise bad_request(f"limit: a number from 1 to {MAX_LIMIT} is wanted.", "limit")


def _unknown(session_id: str) -> ApiError:
    message = f"There is no session {session_id[:100]!r}."
    return ApiError(404, message, param="session_id", code="session_not_found")

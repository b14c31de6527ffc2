"""rwkv_lightning's conversations: a state that goes on from turn to turn, or a tree of turns."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from wingbeat.engine.client import Generation
from wingbeat.server.dialects.lightning import TAG, describing
from wingbeat.server.dialects.lightning_answer import BatchAnswer, BatchStream, event
from wingbeat.server.dialects.lightning_errors import in_own_shape, read_fields
from wingbeat.server.dialects.lightning_replies import (
    CONFLICT,
    ERRORS,
    NOT_FOUND,
    DeleteReply,
    StatusReply,
    TreeEvent,
)
from wingbeat.server.dialects.lightning_sampling import joint
from wingbeat.server.dialects.lightning_schema import DeleteBody, StateBody, StatusBody, TreeBody, TurnBody
from wingbeat.server.errors import ApiError, bad_request
from wingbeat.server.openapi import body_of
from wingbeat.server.owner import owner
from wingbeat.server.registry import ModelRegistry, ServedModel
from wingbeat.server.session_turn import Turn, cannot_be_read, session_turn
from wingbeat.server.starts import Starts
from wingbeat.server.streaming import EventStream, Settle, collect
from wingbeat.services.database import StorageError
from wingbeat.services.session_log import Session, session_name
from wingbeat.services.sessions import SessionStore
from wingbeat.services.turn_tree import next_number, node_id
from wingbeat.text.templates import SEPARATOR

SCHEMAS = (StateBody, TreeBody, StatusBody, DeleteBody, TreeEvent)
"""Models that the OpenAPI document needs beside those that FastAPI finds by itself."""

_PAGE = 1_000


def sessions_router(registry: ModelRegistry, sessions: SessionStore, starts: Starts, max_body: int) -> APIRouter:
    router = APIRouter(tags=[TAG])
    turns = Turns(registry, sessions, starts)

    @router.post("/state/chat/completions", **describing(StateBody, errors=CONFLICT))
    @in_own_shape
    async def converse(request: Request) -> Response:
        """Go on with a conversation: send only what is new."""
        return await turns.next(request, await read_fields(request, StateBody, max_body))

    @router.post("/multi_state/chat/completions", **describing(TreeBody, TreeEvent, errors=NOT_FOUND | CONFLICT))
    @in_own_shape
    async def branch(request: Request) -> Response:
        """Go on from any turn of a conversation; all others stay as they are."""
        return await turns.branch(request, await read_fields(request, TreeBody, max_body))

    @router.post("/state/status", response_model=StatusReply, responses=ERRORS, openapi_extra=body_of(StatusBody))
    @in_own_shape
    async def status(request: Request) -> Response:
        """Your conversations, the last used first."""
        await read_fields(request, StatusBody, max_body)
        with _reading():
            return JSONResponse(_report([_card(found, sessions) for found in await _every(sessions)]))

    @router.post(
        "/state/delete",
        response_model=DeleteReply,
        responses={**ERRORS, 404: {"model": DeleteReply, "description": "No such session."}},
        openapi_extra=body_of(DeleteBody),
    )
    @in_own_shape
    async def delete(request: Request) -> Response:
        """Forget a conversation, and with `delete_prefix` its tree."""
        body = await read_fields(request, DeleteBody, max_body)
        with _reading():
            found = await sessions.delete(owner(), body.session_id)
            for node in await sessions.below(owner(), body.session_id) if body.delete_prefix else ():
                await sessions.delete(owner(), node)
        if not found and not body.delete_prefix:
            missing = {"status": "not_found", "message": f"Session {body.session_id} not found in database"}
            return JSONResponse(missing, status_code=404)
        return JSONResponse({"status": "success", "message": f"Session {body.session_id} deleted successfully"})

    return router


class Turns:
    """Answers one prompt that goes on with what was said before."""

    def __init__(self, registry: ModelRegistry, sessions: SessionStore, starts: Starts) -> None:
        self._registry, self._sessions, self._starts = registry, sessions, starts

    async def next(self, request: Request, body: StateBody) -> Response:
        """The next turn of a session, or a prompt by itself. Raises ApiError."""
        model = self._model(body)
        async with session_turn(self._sessions, request, body.session_id, model) as turn:
            generation = await self._generate(body, model, turn)
        answer = BatchAnswer(model, 1, identity="rwkv7-batch", name=body.model)
        return await _reply(request, body, answer, generation, turn, {})

    async def branch(self, request: Request, body: TreeBody) -> Response:
        """A new turn after any other of a tree. Raises ApiError."""
        model = self._model(body)
        parent = await self._parent(body)
        async with contextlib.AsyncExitStack() as held:
            async with self._tree(body.session_id):
                with _reading():
                    number = await next_number(self._sessions, owner(), body.session_id)
                name = node_id(body.session_id, number)
                turn = await held.enter_async_context(session_turn(self._sessions, request, name, model, parent))
            generation = await self._generate(body, model, turn)
        answer = BatchAnswer(model, 1, identity="rwkv7-multi-state", name=body.model)
        return await _reply(request, body, answer, generation, turn, {"session_id": name, "dialogue_idx": number})

    def _model(self, body: TurnBody) -> ServedModel:
        if len(body.contents) != 1:
            raise bad_request("Request must be single prompt!", "contents")
        model = self._registry.first
        model.check_ready()
        return model

    async def _parent(self, body: TreeBody) -> Session | None:
        """The turn to go on from; None for a root that is not stored. Raises ApiError (404) for another."""
        with _reading():
            parent = await self._sessions.find(owner(), node_id(body.session_id, body.dialogue_idx))
            if parent is not None:
                await self._sessions.touch(parent)
        if parent is None and body.dialogue_idx:
            raise ApiError(404, f"State not found for dialogue_idx={body.dialogue_idx}", param="dialogue_idx")
        return parent

    @contextlib.asynccontextmanager
    async def _tree(self, tree: str) -> AsyncIterator[None]:
        """Nobody else begins a node of it meanwhile."""
        name = session_name(owner(), tree)
        await self._sessions.enter(name)
        try:
            yield
        finally:
            self._sessions.leave(name)

    async def _generate(self, body: TurnBody, model: ServedModel, turn: Turn | None) -> Generation:
        """Begin the answer, which follows the session of `turn`."""
        (text,) = body.contents
        if text and turn and turn.logged and not text.startswith(SEPARATOR):
            text = SEPARATOR + text
        sampling, prompts = joint(body, model), await model.encode([(text,)], "contents")
        if turn is None:
            return model.submit(prompts, 1, sampling, start=await self._starts.find(None, model))
        if turn.state is None:
            turn.state = self._starts.default_name(model)
        generation = model.submit(
            turn.prompts(prompts),
            1,
            sampling,
            start=await self._starts.find(turn.state, model),
            keep=("reply",),
            session=turn.name,
        )
        turn.follow(generation, cancelled=False)
        return generation


async def _reply(
    request: Request,
    body: TurnBody,
    answer: BatchAnswer,
    generation: Generation,
    turn: Turn | None,
    node: dict[str, Any],
) -> Response:
    """The answer once its turn is kept. `node`: what the reply says of it."""
    if body.stream:
        stream = BatchStream(answer, body.chunk_size, include_usage=body.include_usage)
        return EventStream(generation, stream, None if turn is None else _settling(answer, turn, node))
    await collect(request, generation, answer.take)
    answer.check_complete()
    if turn is not None:
        await turn.settle()
    more = {name: value for name, value in node.items() if name == "dialogue_idx"}
    return Response(answer.whole(more), media_type="application/json")


def _settling(answer: BatchAnswer, turn: Turn, node: dict[str, Any]) -> Settle:
    async def settle() -> bytes:
        answer.check_complete()  # else there is no such turn
        await turn.settle()
        return event({"object": "multi_state.dialogue_idx", **node}) if node else b""

    return settle


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Raises ApiError (503) when what is kept is out of reach."""
    try:
        yield
    except StorageError as error:
        raise cannot_be_read(error) from None


async def _every(sessions: SessionStore) -> list[Session]:
    found = page = await sessions.newest(owner(), _PAGE)
    while len(page) == _PAGE:
        page = await sessions.newest(owner(), _PAGE, page[-1])
        found = [*found, *page]
    return found


def _card(session: Session, sessions: SessionStore) -> dict[str, Any]:
    """Sessions are on the disk when their turn ends; one whose turn it is has its state in the engine, too."""
    updated = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(session.updated))
    level = "L1 (VRAM)" if sessions.busy(session) else "Database (Disk)"
    return {
        "session_id": session.id,
        "cache_level": level,
        "last_updated": updated,
        "timestamp": session.updated,
    }


def _report(cards: list[dict[str, Any]]) -> dict[str, Any]:
    busy = sum(card["cache_level"].startswith("L1") for card in cards)
    return {
        "status": "success",
        "total_sessions": len(cards),
        "l1_cache_count": busy,
        "l2_cache_count": 0,
        "database_count": len(cards) - busy,
        "sessions": cards,
    }

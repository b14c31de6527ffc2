"""One request's turn of a session: what the model reads before what is new, and what is kept in the end."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any

import structlog
from starlette.requests import Request

from wingbeat.engine.client import Generation
from wingbeat.engine.messages import RowOutput
from wingbeat.server.errors import ApiError, bad_request
from wingbeat.server.owner import owner
from wingbeat.server.registry import Prompts, ServedModel
from wingbeat.server.streaming import unless_gone
from wingbeat.services.database import StorageError
from wingbeat.services.session_log import LoggedTurn, Session, SessionConflict, session_name, tokens_of
from wingbeat.services.sessions import SessionStore
from wingbeat.text.templates import SEPARATOR, Message

_NOT_ADDED = "an answer was not added to its session"

log = structlog.get_logger("wingbeat.server")


@contextlib.asynccontextmanager
async def session_turn(
    store: SessionStore, request: Request, session_id: str | None, model: ServedModel, parent: Session | None = None
) -> AsyncIterator[Turn | None]:
    """The turn of this request once those before it are over; None for a request without a session.

    ``parent``: the session is a new one, which goes on from the last turn of that one. The turn of this request ends
    with the block, or, once it has a generation, when that has ended and is kept.

    Raises ApiError: 400 for a session of another model, 503 when it cannot be read, 499 when the client left meanwhile.
    """
    if session_id is None:
        yield None
        return
    whose = owner()
    name = session_name(whose, session_id)
    await unless_gone(request, store.enter(name))
    turn = None
    try:
        turn = await _begin(store, whose, session_id, model, parent)
        yield turn
    finally:
        if turn is None or not turn.generating:
            store.leave(name)


async def _begin(store: SessionStore, whose: str, session_id: str, model: ServedModel, parent: Session | None) -> Turn:
    try:
        found = await store.find(whose, session_id) if parent is None else parent.branch(session_id)
        if found is None:
            new = Session(0, whose, session_id, model.fingerprint, model.name, "", 0, 0, 0.0, 0.0)
            return Turn(store, new, [], model)
        _check_model(found, model)
        return Turn(store, found, await store.read_log(found), model)
    except StorageError as error:
        raise cannot_be_read(error) from None


def cannot_be_read(error: StorageError) -> ApiError:
    """503: what is kept of sessions is out of reach."""
    message = f"The sessions cannot be read now: {error}."
    return ApiError(503, message, param="session_id", code="sessions_unavailable")


def _check_model(session: Session, model: ServedModel) -> None:
    if session.fingerprint != model.fingerprint:
        message = (
            f"session_id: this session was begun with another model, {session.model}, and only that can go on with it. "
            "Delete the session, or choose another id."
        )
        raise bad_request(message, "session_id", "session_of_another_model")


class Turn:
    """`session_turn` makes it. What is new goes through `segments` (a chat) and `prompts`; `follow` the generation."""

    def __init__(self, store: SessionStore, before: Session, earlier: Sequence[LoggedTurn], model: ServedModel) -> None:
        self._store = store
        self._before = before
        self._earlier = earlier
        self._model = model
        self._new: list[int] = []
        self._keeps: tuple[str, ...] = ()
        self._kept: Awaitable[None] | None = None
        self._problem: ApiError | None = None
        self.state = before.state or None
        """What the client calls the initial state of the session; None: not decided yet."""
        self.generating = False

    @property
    def name(self) -> str:
        """Of the session, for the engine."""
        return self._before.name

    @property
    def logged(self) -> int:
        """How many tokens came before this turn."""
        return self._before.tokens

    def check_state(self, asked: str | None) -> str | None:
        """The name of the state to begin from: the session's, once it has one. Raises ApiError (400) for another."""
        if self.state is not None and asked not in (None, self.state):
            message = f"state: the session began with {self.state!r}. Leave the field out, or begin another."
            raise bad_request(message, "state")
        return self.state or asked

    def segments(
        self, param: str, messages: Sequence[Message], *, thinking: bool | None = None, continue_final: bool = False
    ) -> list[str]:
        """What is to be read of these messages, which came in the field `param`: all of them, or those that follow the
        session where they are all of it.

        Raises ApiError (400) for answers of the assistant that are not the session's.
        """
        profile = self._model.profile
        if not self._earlier:
            return profile.render(messages, thinking=thinking, continue_final=continue_final)
        if any(message.role.lower() == "assistant" for message in messages):
            rendered = profile.render(messages, thinking=thinking, continue_final=continue_final)
            return self._after_history(rendered, param)
        follow = profile.render if self._closed else profile.follow_up
        return follow(messages, thinking=thinking)

    def holds(self, text: str) -> bool:
        """Whether a prompt of the session so far has this text in it."""
        return any(text in self._text(turn.read) for turn in self._earlier)

    def _after_history(self, segments: list[str], param: str) -> list[str]:
        """The segments that follow the session's text. Raises ApiError (400) when it is not the beginning of them."""
        recalled = self._model.profile.chat_template().recalled
        history = "".join(recalled(self._text(turn.read), self._text(turn.written)) for turn in self._earlier)
        ends = list(itertools.accumulate(map(len, segments)))
        if len(history) in ends and "".join(segments).startswith(history):
            separator, *rest = segments[ends.index(len(history)) + 1 :]
            if separator == SEPARATOR:  # else the last answer goes on in the messages
                return rest if self._closed else [separator, *rest]
        message = (
            f"{param}: answers of the assistant are in it, and it does not begin with what this session holds. "
            "Send only what is new; or delete the session to begin it anew, or leave session_id out."
        )
        raise bad_request(message, param)

    @property
    def _closed(self) -> bool:
        """Whether the session ends with a blank line already."""
        last = self._earlier[-1]
        return self._text([*last.read, *last.written]).endswith(SEPARATOR)

    def _text(self, ids: list[int]) -> str:
        tokenizer = self._model.tokenizer
        return "" if tokenizer is None else tokenizer.decode(ids)

    @property
    def history(self) -> list[int]:
        """The tokens of the session so far."""
        return tokens_of(self._earlier)

    def prompts(self, new: Prompts) -> Prompts:
        """The session's tokens and those of the one prompt in `new`."""
        (ids,) = new
        earlier = self.history
        self._new = ids if ids or earlier else [self._model.start_token]  # what an engine reads in place of nothing
        return Prompts([earlier + self._new], new.fingerprint, logged=len(earlier))

    def follow(self, generation: Generation, *, cancelled: bool = True) -> None:
        """Keep what is generated when it ends, and let the next turn begin then. `state` must be known.

        `cancelled`: keep what there is of an answer that was cancelled, too.
        """
        self._keeps = ("stop", "length", "cancelled") if cancelled else ("stop", "length")
        assert self.state is not None
        self._before = self._before._replace(state=self.state)
        self.generating = True
        context = contextvars.copy_context()  # what goes to the log belongs to this request

        def keep(output: RowOutput) -> None:
            self._kept = self._store.in_background(self._end(output), context)

        generation.on_end = keep

    async def _end(self, output: RowOutput) -> None:
        try:
            reply = output.extras.reply if output.extras else None
            reason = output.finish_reason
            if reply is not None and reason in self._keeps and (reply or reason != "cancelled"):
                await self._store.append(self._before, LoggedTurn(self._new, reply))
        except SessionConflict as conflict:
            log.warning(_NOT_ADDED, session=self._before.id, reason=str(conflict))
            message = f"The session has changed: {conflict}. The answer was not added to it; send the request again."
            self._problem = ApiError(409, message, param="session_id", code="session_conflict")
        except Exception as error:
            defect = None if isinstance(error, StorageError) else error
            log.error(_NOT_ADDED, session=self._before.id, reason=str(error), exc_info=defect)
            message = f"The answer is complete, but it was not added to the session: {error}."
            self._problem = ApiError(503, message, param="session_id", code="session_not_saved")
        finally:
            self._store.leave(self.name)

    async def settle(self) -> None:
        """Wait until the answer is kept. Raises ApiError when it was not: 409 or 503."""
        if self._kept is not None:
            await asyncio.shield(asyncio.ensure_future(self._kept))
        if self._problem is not None:
            raise self._problem

    async def report(self) -> dict[str, Any]:
        """`settle` for a reply that has not been sent: what it says of the session, so that its text is not lost.

        Raises ApiError (409) for an answer to what the session no longer is.
        """
        try:
            await self.settle()
        except ApiError as problem:
            if problem.status == 409:
                raise
            return {"session": {"id": self._before.id, "saved": False, "error": problem.message}}
        return {"session": {"id": self._before.id, "saved": True, "error": None}}

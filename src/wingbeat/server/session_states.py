"""The state of a session, as far as it has come: read anew from its log, or what a cached state lacks of it."""

from __future__ import annotations

from starlette.requests import Request

from wingbeat.engine.messages import RowOutput
from wingbeat.engine.snapshot import StateSnapshot
from wingbeat.sampling.params import SamplingParams
from wingbeat.server.dialects.openai_answer import check_row, ended_early
from wingbeat.server.errors import ApiError, bad_request
from wingbeat.server.owner import owner
from wingbeat.server.registry import ModelRegistry, Prompts
from wingbeat.server.session_turn import cannot_be_read
from wingbeat.server.starts import Starts
from wingbeat.server.streaming import collect
from wingbeat.services.database import StorageError
from wingbeat.services.session_log import tokens_of
from wingbeat.services.sessions import SessionStore

FIELD = "session_id"
_READ_ONLY = SamplingParams(max_tokens=0)


class SessionStates:
    def __init__(self, registry: ModelRegistry, sessions: SessionStore, starts: Starts) -> None:
        self._registry = registry
        self._sessions = sessions
        self._starts = starts

    async def read(self, request: Request, session_id: str) -> tuple[StateSnapshot, str]:
        """The state after a session's last turn, and the name of its model.

        Raises ApiError: 404 when there is no such session, 400 when it belongs to another model, 503.
        """
        model = self._registry.first
        model.check_ready()
        try:
            session = await self._sessions.find(owner(), session_id)
            log = [] if session is None else await self._sessions.read_log(session)
        except StorageError as error:
            raise cannot_be_read(error) from None
        if session is None:
            message = f"{FIELD}: there is no session {session_id[:100]!r}."
            raise ApiError(404, message, param=FIELD, code="session_not_found")
        if session.fingerprint != model.fingerprint:
            message = f"{FIELD}: this session was begun with another model, {session.model}."
            raise bad_request(message, FIELD, "session_of_another_model")
        ids = tokens_of(log)
        start = await self._starts.find(session.state, model)
        prompts = Prompts([ids], model.fingerprint, logged=len(ids))
        found: list[StateSnapshot] = []

        def take(rows: list[RowOutput]) -> None:
            for row in rows:
                check_row(row, model)
                if row.extras is not None and row.extras.prompt_state is not None:
                    found.append(row.extras.prompt_state)

        await collect(request, model.submit(prompts, 1, _READ_ONLY, start=start, keep=("prompt",)), take)
        if not found:
            raise ended_early()
        return found[0], model.name

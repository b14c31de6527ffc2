"""Every request from its arrival to its end: its id, what it asked of the engine, its line in the log, its count."""

from __future__ import annotations

import collections
import secrets
import time
from collections.abc import Awaitable, Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wingbeat.engine.client import Generation
from wingbeat.server.step_writer import CYCLE

if TYPE_CHECKING:
    from wingbeat.server.auth import Key
    from wingbeat.server.limits import Allowance

log = structlog.get_logger("wingbeat.access")

MAX_ID_LENGTH = 128
NO_STATUS = 499
"""Stands for the status of a request that was over before anything was answered."""

POLLED_PATHS = frozenset({"/health", "/healthz", "/health/live", "/metrics", "/stats"})
"""Asked for every few seconds by programs: in the log only at level debug."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_current: ContextVar[RequestRecord | None] = ContextVar("request", default=None)


class RequestRecord:
    """One request. What happens within it is noted here, see `current_request`."""

    def __init__(self, request_id: str) -> None:
        self.id = request_id
        self.began = time.monotonic()
        self.status: int | None = None
        self.streams = False
        self.key: Key | None = None
        self.allowance: Allowance | None = None
        self.generations: list[Generation] = []

    def admit(self, prompt_tokens: int, rows: int, param: str) -> None:
        """Raises ApiError as `Allowance.admit` when the client may not have so much."""
        if self.allowance is not None:
            self.allowance.admit(prompt_tokens, rows, param)

    def begin(self, generation: Generation, prompt_tokens: int) -> None:
        """A generation was started for this request. It is over when the request is."""
        self.generations.append(generation)
        if self.allowance is not None:
            self.allowance.begin(generation, prompt_tokens)

    def end(self) -> None:
        if self.allowance is not None:
            for generation in self.generations:
                self.allowance.end(generation)

    def answer(self, message: Message, extra: Iterable[tuple[bytes, bytes]]) -> Message:
        """The start of the reply, with the headers that every reply has."""
        self.status = message["status"]
        headers = [*message.get("headers", ()), (b"x-request-id", self.id.encode()), *extra]
        self.streams = any(name == b"content-type" and value.startswith(b"text/event-") for name, value in headers)
        if self.allowance is not None:
            headers += self.allowance.headers()
        return {**message, "headers": headers}


def current_request() -> RequestRecord | None:
    """The request that this code runs for; None outside of any."""
    return _current.get()


class Traffic:
    """The requests in progress, whether more are taken, and how many ended how."""

    def __init__(self) -> None:
        self.active: set[RequestRecord] = set()
        self.stopping = False
        self.ended: collections.Counter[tuple[str, str, int]] = collections.Counter()
        """By route, method and status."""

    @property
    def open_streams(self) -> int:
        return sum(record.streams for record in self.active)

    def cancel_all(self) -> None:
        """End every generation; their replies say so."""
        for record in self.active:
            for generation in record.generations:
                generation.cancel()


class RequestTracker:
    """The outermost ASGI middleware. A request's id is the client's `X-Request-Id`, if that is fit for one, else made.

    A chunk of a body passes through one plain call, and a stream's pieces not even through that (see `StepWriter`).
    The rest is done once a request.

    HEAD is answered as GET is: the body is left out where the reply is sent.
    """

    def __init__(self, app: ASGIApp, traffic: Traffic, *, access_log: bool) -> None:
        self.app = app
        self._traffic = traffic
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        record = RequestRecord(_request_id(scope["headers"]))
        scope.setdefault("state", {})["request_id"] = record.id
        asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        traffic = self._traffic

        def send_with_headers(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                message = record.answer(message, [(b"connection", b"close")] if traffic.stopping else ())
            return send(message)

        token = _current.set(record)
        names = structlog.contextvars.bind_contextvars(request_id=record.id)
        traffic.active.add(record)
        try:
            await self.app(asked, receive, send_with_headers)
        except Exception:  # answered already, as far as that was possible
            log.exception("a request failed", method=scope["method"], path=_path(scope))
        finally:
            traffic.active.discard(record)
            scope["state"].pop(CYCLE, None)  # it holds the scope
            self._close(scope, record, _route(asked))
            structlog.contextvars.reset_contextvars(**names)
            _current.reset(token)

    def _close(self, scope: Scope, record: RequestRecord, route: str) -> None:
        record.end()
        status = record.status or NO_STATUS
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._traffic.ended[route, method, status] += 1
        if self._access_log:
            say = log.debug if scope["path"] in POLLED_PATHS else log.info
            say("request", **_line(scope, record, status))
        record.generations = []  # timers that were set meanwhile keep their context, and the record in it, for longer


def _request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    for name, value in headers:
        if name == b"x-request-id" and len(value) <= MAX_ID_LENGTH:
            text = value.decode("latin-1")
            if text.isascii() and text.isprintable() and text.strip():
                return text
    return "req_" + secrets.token_hex(12)


def _route(scope: Scope) -> str:
    """The route as it is declared: few names, however many addresses are tried."""
    if "route" not in scope:
        return "other"
    path: str = scope["path"]
    for name, value in scope.get("path_params", {}).items():
        before, found, after = path.rpartition(f"/{value}")
        path = f"{before}/{{{name}}}{after}" if found else path
    return path


def _path(scope: Scope) -> str:
    """As it was sent: percent signs keep line ends and the like out of the log."""
    return scope.get("raw_path", b"").decode("latin-1")[:200]


def _line(scope: Scope, record: RequestRecord, status: int) -> dict[str, Any]:
    client = scope.get("client")
    line: dict[str, Any] = {
        "method": scope["method"],
        "path": _path(scope),
        "status": status,
        "seconds": round(time.monotonic() - record.began, 4),
        "client": client[0] if client else None,
    }
    if record.key is not None:
        line["key"] = record.key.name
    if record.generations:
        line |= _generated(record.generations)
    return line


def _generated(generations: list[Generation]) -> dict[str, Any]:
    first = [generation.first_token for generation in generations if generation.first_token is not None]
    return {
        "prompt_tokens": sum(len(prompt) for generation in generations for prompt in generation.request.prompts),
        "completion_tokens": sum(generation.generated_tokens for generation in generations),
        "first_token": round(min(first), 4) if first else None,
        "ended": generations[-1].finish_reason,
    }

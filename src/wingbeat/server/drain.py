"""The end of the server's life: what still runs may finish, and nothing new begins."""

from __future__ import annotations

import asyncio
import time

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from wingbeat.server.errors import ApiError, error_response
from wingbeat.server.tracking import Traffic

log = structlog.get_logger("wingbeat")

STILL_ANSWERED = frozenset({"/health", "/healthz", "/health/live", "/metrics"})
"""Asked by those who watch the server end."""

RETRY_SECONDS = 5
"""After which a client may ask again: another server, or this one when it is back."""

LAST_WORDS_SECONDS = 2.0
"""How long replies that were ended may take to say so."""

_POLL_SECONDS = 0.05


class DrainGate:
    """ASGI middleware that refuses new requests once the server is stopping."""

    def __init__(self, app: ASGIApp, traffic: Traffic) -> None:
        self.app = app
        self._traffic = traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._traffic.stopping or scope["type"] != "http" or scope["path"] in STILL_ANSWERED:
            await self.app(scope, receive, send)
            return
        headers = {"Retry-After": str(RETRY_SECONDS)}
        refusal = ApiError(503, "The server is stopping.", code="engine_unavailable", headers=headers)
        await error_response(scope["path"], refusal)(scope, receive, send)


class Drain:
    """Waits for the requests in progress. `hurry` cuts that short."""

    def __init__(self, traffic: Traffic, seconds: float) -> None:
        self._traffic = traffic
        self._seconds = seconds
        self.hurry = False

    async def run(self) -> None:
        """Returns when nothing runs any more, at the latest `LAST_WORDS_SECONDS` after the deadline or `hurry`."""
        active = self._traffic.active
        log.info("stopping", requests=len(active), **({"seconds_left": self._seconds} if active else {}))
        deadline = time.monotonic() + self._seconds
        while active and not self.hurry and time.monotonic() < deadline:
            await asyncio.sleep(_POLL_SECONDS)
        if active:
            await self._end_all()

    async def _end_all(self) -> None:
        log.warning("ending requests that still run", requests=len(self._traffic.active))
        self._traffic.cancel_all()
        deadline = time.monotonic() + LAST_WORDS_SECONDS
        while self._traffic.active and time.monotonic() < deadline:
            await asyncio.sleep(_POLL_SECONDS)

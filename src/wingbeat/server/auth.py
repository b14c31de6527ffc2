"""API keys: every route but /health asks for one when any is configured."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from wingbeat.server.errors import ApiError, openai_response

OPEN_PATHS = frozenset({"/health"})


class ApiKeyGate:
    """ASGI middleware that wants `Authorization: Bearer KEY`, KEY being one of `keys`.

    Keys are compared by digest and in constant time, and all of them are always tried, so that the time of a refusal
    tells nothing about any key.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self.app = app
        self._digests = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._knows(Headers(scope=scope)):
            await self.app(scope, receive, send)
            return
        refusal = ApiError(
            401,
            "This server needs an API key: send it as the header 'Authorization: Bearer YOUR_KEY'.",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
        await openai_response(refusal)(scope, receive, send)

    def _knows(self, headers: Headers) -> bool:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return False
        given = _digest(key.strip().encode("latin-1"))  # as which header bytes were decoded
        return any([hmac.compare_digest(given, known) for known in self._digests])  # noqa: C419 (all are tried)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()

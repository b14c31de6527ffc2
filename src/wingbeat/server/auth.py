"""API keys: every route but those of /health asks for one when any is configured."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from wingbeat.server.errors import ApiError, is_lightning, lightning_response, openai_response
from wingbeat.server.limits import Allowance
from wingbeat.server.password import Peeked, peek
from wingbeat.server.tracking import current_request

OPEN_PATHS = frozenset({"/health", "/healthz", "/health/live"})

KEY_HEADERS = ("x-api-key", "api-key")
"""Where clients of other services send their keys."""


class Key(NamedTuple):
    """One client's key, known by its digest. `allowance` is what the client may use, None for as much as there is."""

    name: str
    digest: bytes
    allowance: Allowance | None = None


def digest(key: bytes) -> bytes:
    """What is kept of a key and compared."""
    return hashlib.sha256(key).digest()


PASSWORD_PATHS = re.compile(r"/(?:v2|v3|state|multi_state|big_batch|FIM|translate)/|(?:/openai)?/v1/chat/completions$")
"""Where rwkv_lightning's clients send their key as a field of the body."""


class ApiKeyGate:
    """ASGI middleware that wants one of `keys`, but for the paths in `open_paths`, and notes whose it is.

    A key comes as `Authorization: Bearer KEY`, as `x-api-key: KEY`, as the field `password` of a body of at most
    `max_body` bytes (see `PASSWORD_PATHS`), or, from browsers that look at a page, as the password of `Authorization:
    Basic`. The latter is for reading only: a browser sends it unasked, from any page.

    Keys are compared by digest and in constant time, and all of them are always tried, so that the time of a refusal
    tells nothing about any key.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[Key], max_body: int, open_paths: Collection[str] = ()) -> None:
        self.app = app
        self._keys = keys
        self._max_body = max_body
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self.app(scope, receive, send)
            return
        headers, reads = Headers(scope=scope), scope["method"] in ("GET", "HEAD")
        key, peeked = self._find(_secrets(headers, basic=reads)), Peeked()
        if key is None and scope["method"] == "POST" and PASSWORD_PATHS.match(scope["path"]):
            peeked, receive = await peek(receive, self._max_body)
            key = self._find([peeked.password.encode()] if isinstance(peeked.password, str) else [])
        if key is None and scope["path"] not in self._open_paths:
            if peeked.has_contents or is_lightning(scope["path"]):
                refusal = lightning_response(ApiError(401, "Unauthorized: invalid or missing password"))
            else:
                refusal = openai_response(_refusal(for_browser=reads and "text/html" in headers.get("accept", "")))
            await refusal(scope, receive, send)
            return
        record = current_request()
        if record is not None:
            record.key = key
        await self.app(scope, receive, send)

    def _find(self, secrets: Iterable[bytes]) -> Key | None:
        found = [
            key
            for secret in secrets
            for given in [digest(secret)]
            for key in self._keys
            if hmac.compare_digest(given, key.digest)
        ]
        return found[0] if found else None


def _secrets(headers: Headers, *, basic: bool) -> Iterator[bytes]:
    """Everything in the headers that may be a key. They were decoded as latin-1."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer":
        yield value.encode("latin-1")
    elif scheme.lower() == "basic" and basic:
        yield from _password(value.encode("latin-1"))
    for name in KEY_HEADERS:
        if name in headers:
            yield headers[name].encode("latin-1")


def _password(credentials: bytes) -> list[bytes]:
    """The password of basic authentication; none where these are no such credentials."""
    try:
        _, separator, password = base64.b64decode(credentials, validate=True).partition(b":")
    except binascii.Error:
        return []
    return [password] if separator else []


def _refusal(*, for_browser: bool) -> ApiError:
    return ApiError(
        401,
        "This server needs an API key: send it as the header 'Authorization: Bearer YOUR_KEY'. "
        "A browser may give it as the password, with any user name.",
        code="invalid_api_key",
        headers={"WWW-Authenticate": 'Basic realm="wingbeat", charset="UTF-8"' if for_browser else "Bearer"},
    )

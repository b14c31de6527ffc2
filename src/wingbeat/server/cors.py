"""Which pages of other origins may call the server, told to browsers."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from wingbeat.server.errors import ApiError, openai_response

_ASKED, _ALLOWED = "access-control-request-private-network", "Access-Control-Allow-Private-Network"


class Origins(CORSMiddleware):
    """Starlette's, whose refusals of a preflight are error objects as all others are. An origin that may call may do so
    from the Web, too, which Chromium asks before it lets a page reach this machine or its network."""

    def preflight_response(self, request_headers: Headers) -> Response:
        known = [(name, value) for name, value in request_headers.items() if name != _ASKED]
        allowed = super().preflight_response(Headers(dict(known)))
        if allowed.status_code < 400:
            if request_headers.get(_ASKED) == "true":
                allowed.headers[_ALLOWED] = "true"
            return allowed
        refusal = openai_response(ApiError(allowed.status_code, bytes(allowed.body).decode() + "."))
        refusal.headers.update({k: v for k, v in allowed.headers.items() if k.startswith(("access-control", "vary"))})
        return refusal

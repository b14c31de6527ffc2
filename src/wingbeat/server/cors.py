"""Which pages of other origins may call the server, told to browsers."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from wingbeat.server.errors import ApiError, openai_response


class Origins(CORSMiddleware):
    """Starlette's, whose refusals of a preflight are error objects as all others are."""

    def preflight_response(self, request_headers: Headers) -> Response:
        allowed = super().preflight_response(request_headers)
        if allowed.status_code < 400:
            return allowed
        refusal = openai_response(ApiError(allowed.status_code, bytes(allowed.body).decode() + "."))
        refusal.headers.update({k: v for k, v in allowed.headers.items() if k.startswith(("access-control", "vary"))})
        return refusal

"""Errors that reach a client: one exception, rendered by each dialect in its own shape."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError, from_json
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Mount

_NOT_SUPPORTED = "unsupported_value"


class ApiError(Exception):
    """A request that is refused or a generation that failed.

    `param` is the path of the field at fault (`messages[0].content`), `code` a stable word for programs. `extra`: more
    that a dialect has fields for.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})


def bad_request(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """400: the field `param` holds something that is wrong or not supported."""
    return ApiError(400, message, param=param, code=code)


def unsupported(what: str, param: str) -> ApiError:
    """400: `what` is part of the protocol, but not of this server yet."""
    return bad_request(f"{what} is not supported yet.", param, _NOT_SUPPORTED)


def not_supported(message: str) -> PydanticCustomError:
    """For a field's validator to raise: like `unsupported`, with the words of `message` after the field's path."""
    return PydanticCustomError(_NOT_SUPPORTED, "{message}", {"message": message})


def unavailable(message: str, *, retry_after: float = 1.0) -> ApiError:
    """503: the engine is loading, restarting or gone."""
    headers = {"Retry-After": str(max(1, round(retry_after)))}
    return ApiError(503, message, code="engine_unavailable", headers=headers)


def from_validation(error: ValidationError, raw: bytes) -> ApiError:
    """The first problem pydantic found in the body `raw`, as a 400 that names the field."""
    found = error.errors(include_url=False, include_input=False)
    first = found[0]
    if first["type"] == "json_invalid":
        return bad_request(f"The body is not valid JSON: {first['msg'].removeprefix('Invalid JSON: ')}")
    body = from_json(raw)
    place = _place(first, body)
    param = _path(place)
    if not param:
        return bad_request("The body must be a JSON object.")
    if first["type"] == "missing":
        return bad_request(f"{param}: this field is required.", param, "missing_required_parameter")
    code = _NOT_SUPPORTED if first["type"] == _NOT_SUPPORTED else "invalid_value"
    # A value that may be of several types has a problem with each of them.
    problems = dict.fromkeys(_problem(other) for other in found if _place(other, body) == place)
    told, *more = problems
    return bad_request(
        f"{param}: {' or '.join([told, *(text.removeprefix('must be ') for text in more)])}.", param, code
    )


_OF_ABSENT = ("missing", "value_error", _NOT_SUPPORTED)
"""What pydantic finds of a field that is not there."""


def _place(found: ErrorDetails, body: Any) -> tuple[int | str, ...]:
    """Where in the body it was found: what pydantic says, without the names that it gives to the types of a field that
    may be of several."""
    place: list[int | str] = []
    for part in found["loc"]:
        if isinstance(body, list) and isinstance(part, int) and part < len(body):
            body = body[part]
        elif isinstance(body, dict) and str(part) in body:
            body = body[str(part)]
        elif not (isinstance(body, dict) and found["type"] in _OF_ABSENT):
            continue
        place.append(part)
    return tuple(place)


def _problem(found: ErrorDetails) -> str:
    """What pydantic found, in words for people who never saw it."""
    limits = {
        key: f"{value:.20g}" if isinstance(value, float) else value for key, value in found.get("ctx", {}).items()
    }
    match found["type"]:
        case "too_short":
            return f"must have at least {limits['min_length']} entry"
        case "too_long":
            return f"must have at most {limits['max_length']} entries"
        case "model_type" | "model_attributes_type" | "dict_type":
            return "must be an object"
        case "string_too_long":
            return f"must have at most {limits['max_length']} characters"
        case "greater_than_equal":
            return f"must be at least {limits['ge']}"
        case "less_than_equal":
            return f"must be at most {limits['le']}"
        case _:
            message = found["msg"].removeprefix("Value error, ")
            return (
                message.replace("Input should be", "must be")
                .replace("a valid integer", "an integer")
                .replace("a valid array", "an array")
                .replace("valid ", "")
            )


_SHOWN = 200
"""Characters of a path or a name that a message repeats."""


def _path(location: tuple[int | str, ...]) -> str:
    """`("messages", 0, "role")` as `messages[0].role`."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{part}" if path else part
    return path[:_SHOWN]


_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def openai_error(error: ApiError) -> dict[str, dict[str, str | None]]:
    """OpenAI's error object."""
    kind = _TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


def openai_response(error: ApiError) -> Response:
    """OpenAI's error object as a whole reply."""
    body = msgspec.json.encode(openai_error(error))
    return Response(body, status_code=error.status, headers=error.headers, media_type="application/json")


def ai00_response(error: ApiError) -> Response:
    """The same for Ai00's clients, some of which know `name` and `brief`."""
    fields = openai_error(error)["error"]
    named = {**fields, "name": HTTPStatus(error.status).phrase, "brief": error.message}
    body = msgspec.json.encode({"error": named})
    return Response(body, status_code=error.status, headers=error.headers, media_type="application/json")


def lightning_error(error: ApiError) -> dict[str, str | int]:
    """What rwkv_lightning's clients know: one text."""
    return {"error": error.message, **error.extra}


def lightning_response(error: ApiError) -> Response:
    """The same as a whole reply."""
    body = msgspec.json.encode(lightning_error(error))
    return Response(body, status_code=error.status, headers=error.headers, media_type="application/json")


_LIGHTNING = re.compile(r"/(?:v2|v3|state|multi_state|big_batch|FIM|translate)/")


def is_lightning(path: str) -> bool:
    """Whether a path is rwkv_lightning's alone."""
    return _LIGHTNING.match(path) is not None


def error_response(path: str, error: ApiError) -> Response:
    """An error in the shape that clients of this path know."""
    if path.startswith("/api/"):
        return ai00_response(error)
    return lightning_response(error) if is_lightning(path) else openai_response(error)


async def handle_api_error(request: Request, error: Exception) -> Response:
    """An `ApiError` that left a route."""
    assert isinstance(error, ApiError)
    return error_response(request.url.path, error)


_NOT_OFFERED = {
    **dict.fromkeys(("assistants", "threads", "vector_stores", "conversations"), "stored conversations and knowledge"),
    **dict.fromkeys(("audio", "realtime"), "audio"),
    **dict.fromkeys(("files", "uploads", "containers"), "files"),
    **dict.fromkeys(("fine_tuning", "fine-tunes"), "fine-tuning"),
    **dict.fromkeys(("images", "edits"), "images or edits"),
    **dict.fromkeys(("rerank", "score"), "ranking"),
    "batches": "batches",
    "evals": "evaluations",
    "messages": "Anthropic's API",
    "moderations": "moderation",
    "videos": "videos",
}
"""What clients of OpenAI's API may look for under /v1, by the first word of the path."""

_V1_PATH = re.compile(r"(?:/openai)?/v1/([^/]+)")

_BESIDE_V1 = re.compile(r"(?:/openai|/v1/v1)?/(?:chat/completions|completions|models|responses)\b")
"""Where clients look for OpenAI's routes when their base URL lacks the /v1, or has it twice."""


async def handle_http_exception(request: Request, error: Exception) -> Response:
    """What the router itself refuses: an unknown path (404) or method (405)."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405 and request.method == "OPTIONS":
        return Response(status_code=204, headers={"Allow": _allowed(request)})
    where = f"{request.method} {request.url.path[:_SHOWN]}"
    if error.status_code == 404:
        word = _V1_PATH.match(request.url.path)
        missing = _NOT_OFFERED.get(word[1]) if word else None
        reason = f"This server does not offer {missing}" if missing else "There is nothing here"
        if _BESIDE_V1.match(request.url.path):
            reason += ". The base URL of OpenAI clients must end in /v1"
        refusal = ApiError(404, f"{where}: {reason}; /docs lists what there is.", code="unknown_url")
    elif error.status_code == 405:
        refusal = ApiError(405, f"{where} is not possible, only {_allowed(request)}.", code="method_not_allowed")
        refusal.headers["Allow"] = _allowed(request)
    else:
        refusal = ApiError(error.status_code, str(error.detail), headers=error.headers)
    return error_response(request.url.path, refusal)


def _allowed(request: Request) -> str:
    """The methods of the request's path, over all routes that have it. Mounted files can only be fetched."""
    scope = {**request.scope, "root_path": request.scope.get("app_root_path", "")}  # as it was outside of any mount
    methods = {
        method
        for route in request.app.router.routes
        for method in (("GET",) if isinstance(route, Mount) else ("DELETE", "GET", "PATCH", "POST", "PUT"))
        if route.matches({**scope, "method": method})[0] is Match.FULL
    }
    return ", ".join(sorted({*methods, "OPTIONS", *({"HEAD"} if "GET" in methods else ())}))


async def handle_crash(request: Request, error: Exception) -> Response:
    """A defect of ours: the details go to the log, not to the client."""
    message = f"{HTTPStatus.INTERNAL_SERVER_ERROR.phrase}. The server's log has the details."
    headers = {"Connection": "close"}  # which uvicorn does after a defect, but does not say
    return error_response(request.url.path, ApiError(500, message, code="internal_error", headers=headers))

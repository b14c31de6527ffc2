"""Errors as rwkv_lightning's clients know them: `{"error": "what is wrong"}`."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from wingbeat.server.body import LARGE, parse_fields, read_raw, run_sized
from wingbeat.server.dialects.lightning_answer import DONE, event
from wingbeat.server.errors import ApiError, bad_request, from_validation, lightning_error, lightning_response
from wingbeat.server.registry import ServedModel

Model = TypeVar("Model", bound=BaseModel)
Handler = Callable[[Request], Awaitable[Response]]


class StreamedError(ApiError):
    """A refusal that clients look for in the stream that they asked for."""


def check_rows(rows: int, model: ServedModel, *, stream: bool = False) -> None:
    """Raises ApiError (400) for more rows than can run and wait, as an event where a `stream` is wanted."""
    if rows > most_rows(model):
        raise too_many_rows(rows, model, StreamedError if stream else ApiError)


def most_rows(model: ServedModel) -> int:
    """How many can run and wait."""
    return model.config.max_queue + model.client.stats().slots


def too_many_rows(rows: int, model: ServedModel, kind: type[ApiError] = ApiError) -> ApiError:
    most = most_rows(model)
    sizes = {"request_bsz": rows, "max_bsz": most}
    return kind(400, f"bsz overflow, Max bsz={most}", code="too_many_rows", extra=sizes)


def in_own_shape(handler: Handler) -> Handler:
    """The handler with its errors in this dialect's shape, whatever its path."""

    @functools.wraps(handler)
    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except StreamedError as error:
            told = event(lightning_error(error)) + DONE
            return Response(told, status_code=error.status, media_type="text/event-stream")
        except ApiError as error:
            return lightning_response(error)

    return handle


async def read_fields(request: Request, model: type[Model], max_body: int) -> Model:
    """The body of a request; an empty one counts as `{}`. Raises ApiError."""
    raw = await read_raw(request, max_body)
    return await checked(await parse_fields(raw) if raw.strip() else {}, model, len(raw))


async def checked(fields: object, model: type[Model], size: int = LARGE + 1) -> Model:
    """Parsed JSON, which came as so many bytes, as `model`. Raises ApiError (400) when it does not fit."""
    if not isinstance(fields, dict):
        raise bad_request("The body must be a JSON object.")
    try:
        return await run_sized(size, model.model_validate, fields)
    except ValidationError as error:
        found = from_validation(error, msgspec.json.encode(fields))
        if found.code == "missing_required_parameter":
            found = bad_request(f"Missing {found.param} parameter", found.param, found.code)
        raise found from None

"""Reads a JSON body under a size limit and checks it against a pydantic model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from wingbeat.server.errors import ApiError, from_validation

LARGE = 100_000
"""Bytes, characters or ids above which work on them leaves the event loop for a thread."""

Model = TypeVar("Model", bound=BaseModel)
P = ParamSpec("P")
T = TypeVar("T")


async def run_sized(size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The function's result, from a thread when it works on so many bytes, characters or ids that others would wait."""
    if size > LARGE:
        return await asyncio.to_thread(function, *args, **kwargs)
    return function(*args, **kwargs)


async def read_model(request: Request, model: type[Model], limit: int) -> Model:
    """The body as `model`, whatever its content type says.

    Raises:
        ApiError: 413 when it is longer than `limit` bytes (found while reading, not after), 400 when it does not fit.
    """
    raw = await _read(request, limit)
    try:
        return await run_sized(len(raw), model.model_validate_json, raw)
    except ValidationError as error:
        raise from_validation(error) from None


async def _read(request: Request, limit: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > limit:
                raise _too_large(limit)
    except ClientDisconnect:
        raise ApiError(400, "The client left before its request was complete.") from None
    return bytes(body)


def _too_large(limit: int) -> ApiError:
    # The rest of the body is still on its way: without closing, it would be read as the next request.
    headers = {"Connection": "close"}
    return ApiError(413, f"The body is larger than {limit} bytes.", code="request_too_large", headers=headers)

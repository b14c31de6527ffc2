"""Reads a JSON body, within limits of size and shape, and checks it against a pydantic model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from wingbeat.server.errors import ApiError, bad_request, from_validation

LARGE = 100_000
"""Bytes, characters or ids above which work on them leaves the event loop for a thread."""

MAX_DEPTH = 64
"""Levels of arrays and objects within each other."""
MAX_CONTAINERS = 100_000
"""Arrays and objects in one body: many millions of them would hold up everyone else while they are read."""
MAX_FIELDS = 300_000
"""Names with a value in the objects of one body."""
MAX_VALUES = 2_000_000
"""Values that are separated by commas in one body: a prompt of a million token ids, and more."""

_BOM = b"\xef\xbb\xbf"
_TO_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))

Model = TypeVar("Model", bound=BaseModel)
P = ParamSpec("P")
T = TypeVar("T")


async def run_sized(size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The function's result, from a thread when it works on so many bytes, characters or ids that others would wait."""
    if size > LARGE:
        return await asyncio.to_thread(function, *args, **kwargs)
    return function(*args, **kwargs)


async def read_model(request: Request, model: type[Model], limit: int) -> Model:
    """The body as `model`, whatever its content type says. Raises ApiError as `read_raw` and `parse_model`."""
    return await parse_model(await read_raw(request, limit), model)


async def read_raw(request: Request, limit: int) -> bytes:
    """The bytes of the body.

    Raises ApiError: 413 when there are more than `limit` (found while reading, not after), 415 when it is compressed.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", ""):
        message = f"Content-Encoding {encoding[:40]!r} is not supported: send the body as it is."
        raise ApiError(415, message, code="unsupported_content_encoding", headers={"Accept-Encoding": "identity"})
    return await _read(request, limit)


async def parse_model(raw: bytes, model: type[Model]) -> Model:
    """JSON as `model`. Raises ApiError (400) when it does not fit."""
    return await run_sized(len(raw), _parse, raw, model)


async def parse_fields(raw: bytes) -> Any:
    """JSON as Python's values. Raises ApiError (400) when it is none."""
    return await run_sized(len(raw), _decode, raw)


def _decode(raw: bytes) -> Any:
    raw = raw.removeprefix(_BOM)
    check_shape(raw)
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad_request(f"Invalid JSON: {error}") from None
    except RecursionError:  # brackets that are never closed: `check_shape` leaves them to the parser
        raise bad_request(f"Invalid JSON: more than {MAX_DEPTH} levels of arrays and objects.") from None


def _parse(raw: bytes, model: type[Model]) -> Model:
    raw = raw.removeprefix(_BOM)
    check_shape(raw)
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise from_validation(error, raw) from None


def check_shape(raw: bytes) -> None:
    """Raises ApiError (400) for JSON of too many levels, containers, fields or values; what is no JSON at all is left
    to the parser.

    Cheaper than parsing: signs are counted, and only where there are many are those outside of texts looked at.
    """
    containers = raw.count(b"[") + raw.count(b"{")
    if containers <= MAX_DEPTH and raw.count(b":") <= MAX_FIELDS and raw.count(b",") < MAX_VALUES:
        return
    plain = raw.replace(b"\\\\", b"").replace(b'\\"', b"")  # the quotes that are left begin and end texts
    if plain.count(b'"') > 2 * (MAX_FIELDS + MAX_VALUES):
        raise _too_many(MAX_VALUES, "values")
    plain = b"".join(plain.split(b'"')[::2])
    if plain.count(b":") > MAX_FIELDS:
        raise _too_many(MAX_FIELDS, "fields")
    if plain.count(b",") >= MAX_VALUES:
        raise _too_many(MAX_VALUES, "values")
    brackets = plain.translate(_TO_SQUARE, _NO_BRACKETS)
    if brackets.count(b"[") > MAX_CONTAINERS:
        raise _too_many(MAX_CONTAINERS, "arrays and objects")
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")  # the innermost level
    if b"[]" in brackets:
        raise _too_many(MAX_DEPTH, "levels of arrays and objects")


def _too_many(most: int, what: str) -> ApiError:
    return bad_request(f"The body has more than {most} {what}.")


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
    return ApiError(413, f"The body is larger than {limit} bytes.", code="request_too_large")

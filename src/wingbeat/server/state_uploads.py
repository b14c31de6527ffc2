"""Files of states that clients send: to a file as they arrive, and kept once they are known to be whole."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path, PurePath

from starlette.requests import ClientDisconnect, Request

from wingbeat.server.body import run_sized
from wingbeat.server.errors import ApiError, bad_request
from wingbeat.server.owner import owner
from wingbeat.server.state_errors import state_errors
from wingbeat.services.state_files import INITIAL_SUFFIXES, SNAPSHOT_SUFFIX
from wingbeat.services.state_index import Kind, StateRecord
from wingbeat.services.state_shelf import StateShelf
from wingbeat.services.states import StateStore

PIECE = 2**20
"""Bytes that are written at a time."""


async def keep_stream(
    request: Request, store: StateStore, kind: Kind, filename: str | None, name: str | None
) -> StateRecord:
    """Keep a request's body. Raises ApiError: 413 when it is larger than what a key may still have, 400, 409."""
    suffix = suffix_of(kind, filename)
    declared = request.headers.get("content-length", "")
    if declared.isdigit():
        with state_errors("state"):
            await store.run(StateShelf.check_room, owner(), int(declared))
    async with _upload(store) as path:
        with state_errors("state"):
            await _write(request, store, path)
        return await _adopt(store, path, kind, suffix, name)


async def keep_base64(store: StateStore, text: str, kind: Kind, filename: str | None, name: str | None) -> StateRecord:
    """Keep a file that was sent as base64. Raises ApiError."""
    suffix = suffix_of(kind, filename)
    try:
        data = await run_sized(len(text), base64.b64decode, "".join(text.split()), validate=True)
    except binascii.Error:
        raise bad_request("state: this is no base64.", "state", "state_refused") from None
    async with _upload(store) as path:
        with state_errors("state"):
            await store.run(lambda _: path.write_bytes(data))
        return await _adopt(store, path, kind, suffix, name)


def suffix_of(kind: Kind, filename: str | None) -> str:
    """What the file's name is to end with. Raises ApiError (400) for an initial state of an unknown format."""
    if kind == "snapshot":
        return SNAPSHOT_SUFFIX
    suffix = PurePath(filename or "").suffix.lower()
    if suffix not in INITIAL_SUFFIXES:
        known = ", ".join(INITIAL_SUFFIXES)
        message = (
            f"filename: an initial state's file name is wanted, since its ending tells the format: one of {known}."
        )
        raise bad_request(message, "filename")
    return suffix


async def _adopt(store: StateStore, path: Path, kind: Kind, suffix: str, name: str | None) -> StateRecord:
    with state_errors("state"):
        return await store.run(StateShelf.adopt, owner(), path, kind, suffix, name)


@contextlib.asynccontextmanager
async def _upload(store: StateStore) -> AsyncIterator[Path]:
    """Where to write; what is left there in the end goes."""
    with state_errors("state"):
        path = await store.run(StateShelf.new_upload)
    try:
        yield path
    finally:
        await asyncio.to_thread(path.unlink, missing_ok=True)


async def _write(request: Request, store: StateStore, path: Path) -> None:
    piece, size = bytearray(), 0
    try:
        async for data in request.stream():
            piece += data
            size += len(data)
            if size > store.budget:
                message = f"state: it is larger than the {store.budget} bytes that a key may have."
                raise ApiError(413, message, param="state", code="states_full")
            if len(piece) >= PIECE:
                await store.run(lambda _, data=bytes(piece): _append(path, data))
                piece.clear()
    except ClientDisconnect:
        raise ApiError(400, "The client left before its request was complete.") from None
    await store.run(lambda _, data=bytes(piece): _append(path, data))


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)

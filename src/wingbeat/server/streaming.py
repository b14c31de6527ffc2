"""Carries the engine's steps to a client: as an event stream or collected into one reply.

Both watch for the client leaving and cancel the generation at once. A reply is rendered by its dialect; here are only
bytes and lifetimes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from wingbeat.engine.client import Generation
from wingbeat.engine.messages import RowOutput
from wingbeat.server.errors import ApiError

CLIENT_GONE = 499

PAUSE_SECONDS = 15.0
WAITING = b": waiting\n\n"
"""A comment, sent whenever a stream was silent for so long: proxies close connections that seem dead."""

log = structlog.get_logger("wingbeat.server")


class StreamedReply(Protocol):
    """A dialect's event stream for one request. Empty bytes mean that there is nothing to say."""

    def begin(self) -> bytes:
        """What comes before the first token."""
        ...

    def step(self, rows: Sequence[RowOutput]) -> bytes:
        """The events of one engine step. Raises ApiError for a row that failed."""
        ...

    def end(self) -> bytes:
        """What comes after the last token."""
        ...

    def failure(self, error: ApiError) -> bytes:
        """The event that ends a stream that failed."""
        ...


class EventStream(Response):
    """A plain ASGI response that sends a generation as server-sent events.

    Not starlette's StreamingResponse: that costs a task group and a wrapper a chunk. Nothing is computed or sent
    once the client is known to have left.
    """

    media_type = "text/event-stream"
    status_code = 200
    background = None

    def __init__(self, generation: Generation, reply: StreamedReply) -> None:
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})  # proxies must not hold it back
        self._generation = generation
        self._reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with cancelled_when_gone(receive, self._generation) as gone:
            with contextlib.suppress(OSError):  # how some ASGI servers answer a send to a client that just left
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                async for chunk in self._chunks():
                    if gone.is_set():
                        return
                    if chunk:
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _chunks(self) -> AsyncIterator[bytes]:
        reply = self._reply
        yield reply.begin()
        try:
            async for rows in _with_pauses(self._generation):
                yield WAITING if rows is None else reply.step(rows)
            last = reply.end()
        except ApiError as error:
            last = reply.failure(error)
        except Exception:
            # The status line is out: the only honest end of this reply is an error event.
            log.exception("a stream failed")
            last = reply.failure(ApiError(500, "The server failed. Its log has the details.", code="internal_error"))
        yield last


async def _with_pauses(generation: Generation) -> AsyncIterator[list[RowOutput] | None]:
    """The steps of a generation, and None for each `PAUSE_SECONDS` that pass without one."""
    while True:
        try:
            async with asyncio.timeout(PAUSE_SECONDS):  # safe: what has arrived stays in the generation
                rows = await anext(generation)
        except TimeoutError:
            rows = None
        except StopAsyncIteration:
            return
        yield rows


async def collect(request: Request, generation: Generation, take: Callable[[list[RowOutput]], None]) -> None:
    """Run a generation to its end, giving the rows of each step to `take`.

    Raises ApiError when the client left: the reply to that reaches nobody, but the work is over.
    """
    async with cancelled_when_gone(request.receive, generation) as gone:
        async for rows in generation:
            if gone.is_set():
                break
            take(rows)
    if gone.is_set():
        raise ApiError(CLIENT_GONE, "The client left.")


@contextlib.asynccontextmanager
async def cancelled_when_gone(receive: Receive, generation: Generation) -> AsyncIterator[asyncio.Event]:
    """Cancels `generation` when the client leaves, and in any case when the block ends.

    Gives an event that is set once the client is gone. The request's body must have been read.
    """
    gone = asyncio.Event()

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()
        generation.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield gone
    finally:
        watcher.cancel()
        generation.cancel()

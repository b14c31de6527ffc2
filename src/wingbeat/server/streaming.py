"""Carries the engine's steps to a client: as an event stream or collected into one reply.

Both watch for the client leaving and cancel the generation at once. A reply is rendered by its dialect; here are only
bytes and lifetimes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from wingbeat.engine.client import Generation
from wingbeat.engine.messages import RowOutput
from wingbeat.server.errors import ApiError
from wingbeat.server.step_writer import StepWriter, TextEvents

CLIENT_GONE = 499

PAUSE_SECONDS = 15.0
WAITING = b": waiting\n\n"
"""A comment, sent whenever a stream was silent for so long: proxies close connections that seem dead."""

log = structlog.get_logger("wingbeat.server")

T = TypeVar("T")
Settle = Callable[[], Awaitable[bytes]]


class StreamedReply(Protocol):
    """A dialect's event stream for one request. Empty bytes mean that there is nothing to say."""

    def begin(self) -> bytes:
        """What comes before the first token."""
        ...

    def step(self, rows: Sequence[RowOutput]) -> bytes:
        """The events of one engine step. Raises ApiError for a row that failed."""
        ...

    def text_events(self) -> TextEvents | None:
        """What stands for `step` from now on, for each output of the only row but its last. None: nothing does."""
        ...

    def end(self) -> bytes:
        """What comes after the last token."""
        ...

    def failure(self, error: ApiError) -> bytes:
        """The event that ends a stream that failed."""
        ...


class EventStream(Response):
    """A plain ASGI response that sends a generation as server-sent events.

    Not starlette's StreamingResponse: that costs a task group and a wrapper a chunk. While the client keeps up, each
    step is written from within the engine client's own call (see ``Generation.taker``), and the stream's task sleeps;
    it wakes up for a client that is slow, for long pauses, and for the end. Nothing is computed or sent once the client
    is known to have left.
    """

    media_type = "text/event-stream"
    status_code = 200
    background = None

    def __init__(self, generation: Generation, reply: StreamedReply, settle: Settle | None = None) -> None:
        """`settle` is waited for when all rows have ended; it gives events that come before the reply's end."""
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})  # proxies must not hold it back
        self._generation = generation
        self._reply = reply
        self._settle = settle
        self._send: Send
        self._gone: asyncio.Event
        self._writer = StepWriter(reply)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._send = send
        async with cancelled_when_gone(receive, self._generation) as self._gone:
            with contextlib.suppress(OSError):  # how some ASGI servers answer a send to a client that just left
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                if self._writer.connect(scope):
                    self._generation.taker = self._writer.take
                    self._generation.text_taker = self._writer.take_text
                last = await self._stream()
                if not self._gone.is_set():
                    await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _stream(self) -> bytes:
        """Send all but the last of the reply, which is returned."""
        reply = self._reply
        try:
            await self._put(reply.begin())
            async for rows in self._steps():
                await self._put(WAITING if rows is None else reply.step(rows))
            if self._settle is not None and not self._gone.is_set():
                await self._put(await self._settle())
            return reply.end()
        except ApiError as error:
            return reply.failure(error)
        except OSError:
            raise
        except Exception:
            # The status line is out: the only honest end of this reply is an error event.
            log.exception("a stream failed")
            return reply.failure(ApiError(500, "The server failed. Its log has the details.", code="internal_error"))

    async def _steps(self) -> AsyncIterator[list[RowOutput] | None]:
        """The steps that were not written directly, and None for each `PAUSE_SECONDS` in which nothing was sent."""
        writer = self._writer
        while not self._gone.is_set():
            writer.open = True  # but not while this stream's task is sending
            try:
                async with asyncio.timeout_at(writer.last_sent + PAUSE_SECONDS):  # safe: nothing that came is lost
                    rows = await anext(self._generation)
            except TimeoutError:
                rows = None
            except StopAsyncIteration:
                break
            finally:
                writer.open = False
            if writer.failure is not None:
                break
            now = writer.clock()
            if rows is not None or now >= writer.last_sent + PAUSE_SECONDS:
                writer.last_sent = now
                yield rows
        if writer.failure is not None:
            raise writer.failure

    async def _put(self, chunk: bytes) -> None:
        if chunk and not self._gone.is_set():
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})


async def collect(request: Request, generation: Generation, take: Callable[[list[RowOutput]], None]) -> None:
    """Run a generation to its end, giving the rows of each step to `take`.

    Raises ApiError when the client left: the reply to that reaches nobody, but the work is over.
    """
    failures: list[Exception] = []

    def try_to_take(rows: list[RowOutput]) -> bool:
        try:
            take(rows)
        except Exception as error:
            failures.append(error)
        return not failures  # what is refused wakes up the loop below

    async with cancelled_when_gone(request.receive, generation) as gone:
        generation.taker = try_to_take
        async for rows in generation:
            if gone.is_set() or failures:
                break
            take(rows)
    if gone.is_set():
        raise ApiError(CLIENT_GONE, "The client left.")
    if failures:
        raise failures[0]


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What the work gives. Raises ApiError when the client leaves before; the work is cancelled then.

    The request's body must have been read.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_left(request.receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(CLIENT_GONE, "The client left.")
        return task.result()
    finally:
        gone.cancel()
        task.cancel()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@contextlib.asynccontextmanager
async def cancelled_when_gone(receive: Receive, generation: Generation) -> AsyncIterator[asyncio.Event]:
    """Cancels `generation` when the client leaves, and in any case when the block ends.

    Gives an event that is set once the client is gone. The request's body must have been read.
    """
    gone = asyncio.Event()

    async def watch() -> None:
        await _left(receive)
        gone.set()
        generation.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield gone
    finally:
        watcher.cancel()
        generation.cancel()
        generation.taker = generation.text_taker = None  # they hold on to the reply, which holds on to the generation

"""The short way of a stream's steps to the socket: from the engine's frame, past ASGI's messages and middlewares."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from starlette.types import Scope

from wingbeat.engine.messages import RowOutput

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from wingbeat.server.streaming import StreamedReply

encode = msgspec.json.Encoder().encode

CYCLE = "cycle"
"""Where a request's state has uvicorn's side of it, if `GuardedProtocol` serves it."""


class TextEvents(NamedTuple):
    """What makes an event of an output's text: what is shown of the text, as a JSON string between two constants. Where
    nothing is shown there is no event."""

    shown: Callable[[str], str]
    before: bytes
    after: bytes


class StepWriter:
    """Writes a reply's steps as pieces of a body in chunks, between ASGI's first message and its last.

    This runs for every event of every stream, beside an engine that empties the caches. The objects that it must fetch
    from memory are what it costs, so there are few of them.
    """

    __slots__ = ("_flow", "_reply", "_text_events", "_transport", "clock", "failure", "last_sent", "open")

    def __init__(self, reply: StreamedReply) -> None:
        self._reply = reply
        self._text_events: TextEvents | None = None
        self.clock = asyncio.get_running_loop().time
        self.last_sent = self.clock()
        self.open = False  # whether to take steps
        self.failure: Exception | None = None  # what the reply raised: no more steps are taken

    def connect(self, scope: Scope) -> bool:
        """Write to the client of this request, of whose answer the server has sent the first message. False when that
        is not possible: another server, or HTTP/1.0, which has no chunks."""
        cycle: RequestResponseCycle | None = scope.get("state", {}).get(CYCLE)
        if cycle is None or not cycle.chunked_encoding:
            return False
        self._flow, self._transport = cycle.flow, cycle.transport
        return True

    def take_text(self, text: str) -> bool:
        """`take` for an output that brings text and nothing else to the reply's only row."""
        events = self._text_events
        if events is None or not self.open or self._flow.write_paused:
            return False
        shown, before, after = events
        try:
            if (text := shown(text)) and not self._transport.is_closing():
                string = encode(text)
                size = len(before) + len(string) + len(after)
                self.last_sent = self.clock()
                self._transport.write(b"%x\r\n%b%b%b\r\n" % (size, before, string, after))
        except Exception as error:
            self.failure, self.open = error, False
            return False
        return True

    def take(self, rows: list[RowOutput]) -> bool:
        """Write a step; to nobody when the client has left. False: it was not written, since too much waits for the
        client to read it, or see `open` and `failure`."""
        if not self.open or self._flow.write_paused:
            return False
        try:
            piece = self._reply.step(rows)
            self._text_events = self._reply.text_events()
            if piece and not self._transport.is_closing():
                self.last_sent = self.clock()
                self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        except Exception as error:
            self.failure, self.open = error, False
            return False
        return True

"""The short way of a stream's pieces to the socket: one call each, past ASGI's messages and middlewares."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class PieceWriter:
    """Writes pieces of the body that answers one request, between its first message and its last, which go through
    ASGI's ``send``. It is in ``scope["state"]["piece_writer"]`` where the server has one."""

    __slots__ = ("_cycle", "_flow", "_transport")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._flow = cycle.flow
        self._transport = cycle.transport

    @property
    def usable(self) -> bool:
        """Known once the first message is sent. HTTP/1.0, for one, has no chunks."""
        return bool(self._cycle.chunked_encoding)

    @property
    def ready(self) -> bool:
        """Whether to write now: not while the client leaves too much unread."""
        return not self._flow.write_paused

    def write(self, piece: bytes) -> None:
        """Send a piece that is not empty; to nobody when the client has left."""
        if not self._transport.is_closing():
            self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))

"""The short way of a stream's pieces to the socket: one call each, past ASGI's messages and middlewares."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class PieceWriter:
    """Writes pieces of the body that answers one request, between its first message and its last, which go through
    ASGI's ``send``. It is in ``scope["state"]["piece_writer"]`` where the server has one."""

    __slots__ = ("_cycle",)

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle

    @property
    def ready(self) -> bool:
        """Whether to write now. Not while the client leaves too much unread, nor to one of HTTP/1.0."""
        return bool(self._cycle.chunked_encoding) and not self._cycle.flow.write_paused

    def write(self, piece: bytes) -> None:
        """Send a piece that is not empty; to nobody when the client has left."""
        if not self._cycle.disconnected:
            self._cycle.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))

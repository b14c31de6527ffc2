"""Frames over a socket pair: four bytes of length, then as many of content. No thread and no broker is involved."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterable

PIECE = 1 << 18
_LENGTH = 4


class FramePipe:
    """One end. ``receive`` and ``send`` never wait; what the other end has no room for yet goes out later."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._piece = memoryview(bytearray(PIECE))
        self._in = bytearray()
        self._out = bytearray()
        self.closed = False  # the other end is gone

    def send(self, frame: bytes) -> None:
        data = len(frame).to_bytes(_LENGTH, "little") + frame
        if self._out:
            self._out += data
            self._push()
        elif (sent := self._try(data)) < len(data):
            self._out += data[sent:]

    def receive(self) -> list[bytes | memoryview]:
        """The frames that have come, each whole; good until the next call."""
        if self._out:
            self._push()
        while not self.closed:
            try:
                size = self._socket.recv_into(self._piece)
            except BlockingIOError:
                break
            except OSError:
                size = 0
            self.closed = not size
            piece = self._piece[:size]
            if not self._in and size == _LENGTH + int.from_bytes(piece[:_LENGTH], "little"):  # nearly always
                return [piece[_LENGTH:]]
            self._in += piece
            if size < PIECE:
                break
        return self._frames() if self._in else []

    def wait(self, seconds: float | None) -> None:
        """Until something can be received, or sent where something waits for that, or so many seconds have passed."""
        wait([self], seconds)

    def flush(self, seconds: float) -> None:
        """Wait until all has been sent, but no longer."""
        deadline = time.monotonic() + seconds
        while self._out and not self.closed and (left := deadline - time.monotonic()) > 0:
            poll = select.poll()
            poll.register(self._socket, select.POLLOUT)
            poll.poll(1000 * left)
            self._push()

    def register(self, poll: select.poll) -> None:
        """Have ``poll`` wait for what this end can do."""
        poll.register(self._socket, select.POLLIN | (select.POLLOUT if self._out else 0))

    def close(self) -> None:
        self.closed = True
        self._socket.close()

    def _push(self) -> None:
        while self._out and (sent := self._try(self._out[:PIECE])):
            del self._out[:sent]

    def _try(self, data: bytes | bytearray) -> int:
        """How much of it has been sent."""
        try:
            return 0 if self.closed else self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:  # the other end is gone, which ``receive`` finds when it has taken what that has said
            return len(data)

    def _frames(self) -> list[bytes | memoryview]:
        frames: list[bytes | memoryview] = []
        at = 0
        while len(self._in) - at >= _LENGTH:
            end = at + _LENGTH + int.from_bytes(self._in[at : at + _LENGTH], "little")
            if end > len(self._in):
                break
            frames.append(bytes(self._in[at + _LENGTH : end]))
            at = end
        del self._in[:at]
        return frames


def wait(pipes: Iterable[FramePipe], seconds: float | None) -> None:
    """Until one of them has something to receive, or can send what waits, or so many seconds have passed.

    None: for as long as that takes. One whose other end is gone counts as ready.
    """
    poll = select.poll()  # unlike select() it takes descriptors from 1024 on
    for pipe in pipes:
        if pipe.closed:
            return
        pipe.register(poll)
    poll.poll(None if seconds is None else 1000 * seconds)

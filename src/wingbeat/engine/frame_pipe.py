"""Frames over a socket pair: four bytes of length, then as many of content. No thread and no broker is involved."""

from __future__ import annotations

import socket
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector

PIECE = 1 << 18
_LENGTH = 4


class FramePipe:
    """One end. ``receive`` and ``send`` never wait; what the other end has no room for yet goes out later."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._in = bytearray()
        self._out = bytearray()
        self.closed = False  # the other end is gone

    def send(self, frame: bytes) -> None:
        self._out += len(frame).to_bytes(_LENGTH, "little") + frame
        self._push()

    def receive(self) -> list[bytes | memoryview]:
        """The frames that have come, each whole."""
        if self._out:
            self._push()
        while not self.closed:
            try:
                piece = self._socket.recv(PIECE)
            except BlockingIOError:
                break
            except OSError:
                piece = b""
            self.closed = not piece
            if not self._in and len(piece) == _LENGTH + int.from_bytes(piece[:_LENGTH], "little"):  # nearly always
                return [memoryview(piece)[_LENGTH:]]
            self._in += piece
            if len(piece) < PIECE:
                break
        return self._frames() if self._in else []

    def wait(self, seconds: float | None) -> None:
        """Until something can be received, or sent where something waits for that, or so many seconds have passed."""
        if not self.closed:
            with DefaultSelector() as selector:  # select() takes no descriptor from 1024 on
                selector.register(self._socket, EVENT_READ | (EVENT_WRITE if self._out else 0))
                selector.select(seconds)
            self._push()

    def close(self) -> None:
        self.closed = True
        self._socket.close()

    def _push(self) -> None:
        try:
            while self._out and not self.closed:
                del self._out[: self._socket.send(self._out[:PIECE])]
        except BlockingIOError:
            pass
        except OSError:
            self.closed = True

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

"""A client that takes next to nothing from the machine it measures: plain sockets, one thread, no parsing.

It counts the events of many completion streams, notes when each came, and reads the usage off the end of a stream.
"""

from __future__ import annotations

import json
import selectors
import socket
import time
from dataclasses import dataclass, field
from typing import Any

HOST = "127.0.0.1"
EVENT = b"data: {"
END = b"0\r\n\r\n"
TAIL = 4096
"""Bytes kept of a stream: its last events."""


@dataclass
class Stream:
    """One completion, as it was received."""

    connection: socket.socket
    sent: float
    times: list[float] = field(default_factory=list)
    """When each piece with a token in it was received."""
    events: int = 0
    tail: bytes = b""

    @property
    def first_token(self) -> float:
        """Seconds from the request to the first token."""
        return self.times[0] - self.sent

    @property
    def gaps(self) -> list[float]:
        """Seconds from token to token."""
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]

    def tokens(self) -> int:
        """The completion tokens that the server counted. Exits with its words when it did not."""
        for line in self.tail.split(b"\n"):
            if line.startswith(EVENT) and b'"completion_tokens"' in line:
                return json.loads(line.removeprefix(b"data: "))["usage"]["completion_tokens"]
        raise SystemExit(f"the server answered: {self.tail.decode(errors='replace')}")


def open_stream(port: int, body: dict[str, Any], path: str = "/v1/completions") -> Stream:
    """Send a completion request, streamed, with the counts at its end where `path` is OpenAI's."""
    data = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
    connection = socket.create_connection((HOST, port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
    return Stream(connection, time.perf_counter())


def read_all(streams: list[Stream]) -> None:
    """Receive until every stream has ended."""
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream.connection, selectors.EVENT_READ, stream)
        left = len(streams)
        buffer = bytearray(1 << 16)
        while left:
            for key, _ in selector.select():
                stream: Stream = key.data
                size = stream.connection.recv_into(buffer)
                if size:
                    _take(stream, bytes(buffer[:size]))
                    continue
                selector.unregister(stream.connection)
                stream.connection.close()
                left -= 1


def _take(stream: Stream, piece: bytes) -> None:
    events = piece.count(EVENT)
    if events:
        stream.times.append(time.perf_counter())
        stream.events += events
    stream.tail = (stream.tail + piece)[-TAIL:] if len(piece) < TAIL else piece[-TAIL:]


def get(port: int, path: str) -> tuple[int, bytes]:
    """Status and body of a GET; status 0 while nobody listens."""
    try:
        with socket.create_connection((HOST, port)) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
            reply = b""
            while piece := connection.recv(1 << 16):
                reply += piece
    except OSError:
        return 0, b""
    head, _, body = reply.partition(b"\r\n\r\n")
    return int(head.split()[1]), body

"""A hub on this machine: a real HTTP server that serves files as Hugging Face does, and fails when told to."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

Fault = Callable[["_Handler"], bool]
"""Deals with a request in a way of its own; returns whether that was the whole answer."""


@dataclass
class FakeHub:
    """``files`` by the path after the host. ``faults`` deal with the next requests, one each; None lets one pass."""

    server: ThreadingHTTPServer
    files: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault | None] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    ranges: bool = True
    tells_sha256: bool = True
    tells_size: bool = True
    storage: str | None = None  # another host, to which requests for files are redirected
    stalled: threading.Event = field(default_factory=threading.Event)

    @property
    def port(self) -> int:
        return self.server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def publish(self, place: str, data: bytes, revision: str = "main") -> None:
        """``place``: owner/repository/file."""
        owner, repository, name = place.split("/", 2)
        self.files[f"/{owner}/{repository}/resolve/{revision}/{name}"] = data

    def asked(self, header: str) -> list[str | None]:
        """What each request said in one header."""
        return [headers.get(header) for _, headers in self.requests]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(self.path)
        hub.requests.append((path, {name.lower(): value for name, value in self.headers.items()}))
        fault = hub.faults.pop(0) if hub.faults else None
        if fault is not None and fault(self):
            return
        if (data := hub.files.get(path)) is None:
            self.answer(404)
        elif hub.storage and not path.startswith("/storage"):
            hub.files["/storage" + path] = data
            self.answer(302, {"location": hub.storage + "/storage" + self.path, **self.linked(data)})
        else:
            self.send_file(data)

    def linked(self, data: bytes) -> dict[str, str]:
        return {"x-linked-etag": f'"{hashlib.sha256(data).hexdigest()}"'} if self.hub.tells_sha256 else {}

    def send_file(self, data: bytes, cut: int | None = None) -> None:
        """The range that is asked for; at ``cut`` bytes of it the connection is closed."""
        etag = f'"{hashlib.md5(data).hexdigest()}"'
        headers = {"etag": etag, "content-type": "application/octet-stream", **self.linked(data)}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        matches = self.headers.get("if-range", etag) == etag
        if self.hub.ranges and asked and matches:
            start, end = int(asked[1]), int(asked[2] or len(data) - 1)
            if start >= len(data):
                return self.answer(416, {"content-range": f"bytes */{len(data)}"})
            self.start(206, {**headers, "content-range": f"bytes {start}-{end}/{len(data)}"}, end + 1 - start)
            data = data[start : end + 1]
        else:
            self.start(200, headers, len(data) if self.hub.tells_size else None)
        try:
            self.wfile.write(data[:cut])
            self.wfile.flush()
        except OSError:  # the client has seen enough
            self.close_connection = True
        if cut is not None or not self.hub.tells_size:
            self.close_connection = True
        return None

    def start(self, status: int, headers: dict[str, str], length: int | None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("content-length", str(length))
        self.end_headers()

    def answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.start(status, headers or {}, len(body))
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Clients that leave are part of the tests."""


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    server = _Server(("127.0.0.1", 0), _Handler)
    hub = FakeHub(server)
    server.RequestHandlerClass = type("Handler", (_Handler,), {"hub": hub})
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        hub.stalled.set()
        server.shutdown()
        thread.join()
        server.server_close()


def status(code: int, **headers: str) -> Fault:
    """Answers with a status."""

    def fault(handler: _Handler) -> bool:
        handler.answer(code, {name.replace("_", "-"): value for name, value in headers.items()})
        return True

    return fault


def cut(after: int) -> Fault:
    """Closes the connection after so many bytes of the answer."""

    def fault(handler: _Handler) -> bool:
        handler.send_file(handler.hub.files[unquote(handler.path)], after)
        handler.connection.shutdown(socket.SHUT_RDWR)
        return True

    return fault


def stall(after: int) -> Fault:
    """Sends so many bytes, then nothing more."""

    def fault(handler: _Handler) -> bool:
        handler.send_file(handler.hub.files[unquote(handler.path)], after)
        handler.hub.stalled.wait(60)
        return True

    return fault


def page(handler: _Handler) -> bool:
    """What a proxy that wants a login answers."""
    handler.answer(200, {"content-type": "text/html; charset=utf-8"}, b"<!DOCTYPE html>")
    return True


def other(data: bytes, sha256: str | None = None) -> Fault:
    """Other bytes than were promised, or the promise of others."""

    def fault(handler: _Handler) -> bool:
        linked = {"x-linked-etag": f'"{sha256}"'} if sha256 else {}
        handler.answer(200, {"content-type": "application/octet-stream", **linked}, data)
        return True

    return fault

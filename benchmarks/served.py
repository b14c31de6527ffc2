"""What the scripts that try to break the server share: a `wingbeat serve` to watch, and a client that costs little."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import psutil

HOST = "127.0.0.1"
START_SECONDS = 60.0


class Footprint(NamedTuple):
    """What the two processes hold: resident MB of each, and the open files of the API."""

    api_mb: float
    engine_mb: float
    files: int

    def __str__(self) -> str:
        return f"API {self.api_mb:.0f} MB and {self.files} files, engine {self.engine_mb:.0f} MB"


@dataclass
class Served:
    """A server's process. `log` reads what it writes to standard error, one JSON object a line."""

    port: int
    process: subprocess.Popen[bytes]
    log: BinaryIO

    @property
    def api(self) -> psutil.Process:
        return psutil.Process(self.process.pid)

    @property
    def engine(self) -> psutil.Process | None:
        """The engine's process; None while there is none."""
        workers = [child for child in self.api.children() if child.status() != psutil.STATUS_ZOMBIE]
        return workers[0] if workers else None

    def footprint(self) -> Footprint:
        engine = self.engine
        mb = [process.memory_info().rss / 2**20 if process else 0.0 for process in (self.api, engine)]
        return Footprint(*mb, self.api.num_fds())

    def complaints(self) -> list[str]:
        """Errors and tracebacks that were logged since the last call."""
        return [line for line in self.new_lines() if re.search(r'"level": "error"|Traceback', line)]

    def new_lines(self) -> list[str]:
        """What was logged since the last call."""
        return self.log.read().decode(errors="replace").splitlines()


SMALL_CACHE = ("--cache-memory-mb", "16", "--cache-disk-mb", "0")
"""Flags with which it is not the prefix cache that makes memory grow."""


@contextmanager
def serving(*flags: str, model: str | None = None) -> Iterator[Served]:
    """`wingbeat serve` on a free port, yielded once requests are taken, ended with the block."""
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "wingbeat", "serve", *([model] if model else []), "--port", str(port)]
    command += ["--log-level", "warning", "--log-format", "json", *flags]
    with (
        tempfile.NamedTemporaryFile() as log,
        open(log.name, "rb") as reader,  # with a position of its own
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log) as process,
    ):
        try:
            served = Served(port, process, reader)
            asyncio.run(_started(served))
            yield served
        finally:
            process.terminate()


async def _started(served: Served) -> None:
    end = time.monotonic() + START_SECONDS
    while (await health(served.port)).get("status") != "ok":
        if served.process.poll() is not None or time.monotonic() > end:
            raise SystemExit("\n".join(["the server could not start:", *served.new_lines()[-5:]]))
        await asyncio.sleep(0.1)


async def health(port: int) -> dict[str, Any]:
    """What /health answers; empty while nobody listens."""
    try:
        return json.loads((await request(port, "GET", "/health")).body)
    except OSError:
        return {}


async def wait_idle(port: int, seconds: float = 15.0) -> dict[str, Any]:
    """The health report once the server takes requests and nothing runs or waits, or the last one."""
    end = time.monotonic() + seconds
    while True:
        report = await health(port)
        idle = report.get("status") == "ok" and report["running"] == report["waiting"] == 0
        if idle or time.monotonic() > end:
            return report
        await asyncio.sleep(0.1)


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any] | None:
        """OpenAI's error object, or rwkv_lightning's text as its message, when the body is exactly that."""
        try:
            body = json.loads(self.body)
            error = body["message"] if body.get("status") == "not_found" else body["error"]
            if isinstance(error, str):
                return {"message": error}
            return error if {"code", "message", "param", "type"} <= error.keys() else None
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(HOST, port, limit=1 << 20)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def request(port: int, method: str, path: str, body: Any = None) -> Reply:
    """One request with a JSON body, on a connection of its own. Raises OSError when the connection breaks."""
    async with connected(port) as (reader, writer):
        writer.write(head(method, path, body))
        return await read_reply(reader)


def head(method: str, path: str, body: Any = None) -> bytes:
    """A whole request."""
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}", f"Content-Length: {len(content)}", "", ""]
    return "\r\n".join(lines).encode() + content


async def read_reply(reader: asyncio.StreamReader, *, bodiless: bool = False) -> Reply:
    """The next reply of a connection. Raises ConnectionError when it ends early."""
    try:
        line = await reader.readuntil(b"\r\n")
        headers: dict[str, str] = {}
        while (pair := await reader.readuntil(b"\r\n")) != b"\r\n":
            name, _, value = pair.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        body = b"" if bodiless else await _body(reader, headers)
    except asyncio.IncompleteReadError as cut:
        raise ConnectionError(f"the connection ended after {cut.partial[-200:]!r}") from None
    return Reply(int(line.split()[1]), headers, body)


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", 0)))
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return body

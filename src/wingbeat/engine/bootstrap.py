"""How the client tells a new engine process what to run: length-prefixed msgpack on its standard input."""

from __future__ import annotations

import os
import sys
from typing import TypeVar

import msgspec

from wingbeat.engine.messages import EngineConfig

LOAD_FAILED = 3
"""Exit status of an engine that cannot load its model: starting it again would not help."""

_STDIN = 0
Frame = TypeVar("Frame", bound=msgspec.Struct)


class Bootstrap(msgspec.Struct):
    """Where to connect, as whom (the token is the socket's identity and a secret), what to run and to log."""

    address: str
    token: bytes
    config: EngineConfig
    log_level: int


def frame_bootstrap(bootstrap: msgspec.Struct) -> bytes:
    body = msgspec.msgpack.encode(bootstrap)
    return len(body).to_bytes(4, "little") + body


def read_bootstrap() -> Bootstrap:
    return read_frame(Bootstrap)


def read_frame(kind: type[Frame]) -> Frame:
    """What the owner has written to standard input."""
    size = int.from_bytes(_read_exactly(4), "little")
    return msgspec.msgpack.decode(_read_exactly(size), type=kind)


def _read_exactly(size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = os.read(_STDIN, size - len(data))
        if not piece:
            sys.exit("this program is started by wingbeat, which tells it on standard input what to run")
        data += piece
    return data

"""Clients that do not read what they asked for: their streams are bounded and end, and others do not notice."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator

import pytest

from tests.live import LiveServer
from tests.server.test_protocol import post
from wingbeat.engine import generation
from wingbeat.server import protocol

FLOOD = {"prompt": "x", "max_tokens": 1_000_000, "ignore_eos": True, "n": 4, "logprobs": 20, "stream": True}


@contextlib.contextmanager
def stalled(server: LiveServer) -> Iterator[socket.socket]:
    """A client that has asked for a flood and reads nothing of it."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(20)
        client.connect((host, int(port)))
        client.sendall(post(json.dumps(FLOOD).encode()))
        assert server.wait_for(lambda health: health["running"] == FLOOD["n"])["running"] == FLOOD["n"]
        yield client


def read_all(client: socket.socket) -> bytes:
    """What was sent, to the end of the reply or of the connection."""
    got = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while not got.endswith(b"\r\n0\r\n\r\n") and (piece := client.recv(1 << 16)):
            got += piece
    return bytes(got)


def ask(server: LiveServer) -> str:
    body = {"prompt": "wing", "max_tokens": 20, "seed": 4, "ignore_eos": True}
    return server.http.post("/v1/completions", json=body).json()["choices"][0]["text"]


def test_a_stream_that_is_not_read_ends_with_an_error(monkeypatch: pytest.MonkeyPatch, server: LiveServer) -> None:
    monkeypatch.setattr(generation, "MAX_UNREAD_TOKENS", 40)
    monkeypatch.setattr(generation, "MAX_UNREAD_TOKENS_PER_ROW", 0)
    expected = ask(server)
    with stalled(server) as client:
        assert ask(server) == expected
        assert server.wait_idle(15)["running"] == 0
        event = read_all(client).split(b"data: ")[-1].splitlines()[0]
    assert "not read" in json.loads(event)["error"]["message"]


def test_a_connection_that_is_not_read_is_ended(monkeypatch: pytest.MonkeyPatch, server: LiveServer) -> None:
    monkeypatch.setattr(generation, "MAX_UNREAD_TOKENS", 10**9)
    monkeypatch.setattr(protocol, "UNREAD_SECONDS", 0.3)
    expected = ask(server)
    with stalled(server) as client:
        assert ask(server) == expected
        assert server.wait_idle(15)["running"] == 0
        assert not read_all(client).endswith(b"0\r\n\r\n")


def test_a_reader_that_catches_up_in_time_keeps_its_connection(
    monkeypatch: pytest.MonkeyPatch, server: LiveServer
) -> None:
    monkeypatch.setattr(generation, "MAX_UNREAD_TOKENS", 10**9)
    monkeypatch.setitem(FLOOD, "max_tokens", 3000)
    with stalled(server) as client:
        paused: list[protocol.GuardedProtocol] = []
        deadline = time.monotonic() + 60
        while not paused and time.monotonic() < deadline:
            paused = [found for found in server.connections() if found.flow.write_paused]
            time.sleep(0.05)
        assert [found._unread is not None for found in paused] == [True]
        assert read_all(client).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert [found._unread for found in paused] == [None]

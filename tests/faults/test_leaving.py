"""Clients that leave at every stage of a request: nothing of it stays, in the engine or in the API."""

from __future__ import annotations

import gc
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.live import LiveServer
from tests.server.test_protocol import post
from wingbeat.engine.generation import Generation

ENDLESS = b'{"prompt": "x", "max_tokens": 1000000, "ignore_eos": true, "n": 3, "stream": %s}'
STREAM, WHOLE = post(ENDLESS % b"true"), post(ENDLESS % b"false")
SHORT = post(b'{"prompt": "x", "max_tokens": 3, "stream": true}')

STAGES: dict[str, Callable[[socket.socket], Any]] = {
    "connected": lambda client: None,
    "in the head": lambda client: client.sendall(STREAM[:20]),
    "after the head": lambda client: client.sendall(STREAM[: STREAM.index(b"\r\n\r\n") + 4]),
    "in the body": lambda client: client.sendall(STREAM[:-5]),
    "before the first token of a stream": lambda client: client.sendall(STREAM),
    "before a whole reply": lambda client: client.sendall(WHOLE),
    "after the reply's head": lambda client: (client.sendall(STREAM), client.recv(10)),
    "in the stream": lambda client: (client.sendall(STREAM), [client.recv(1000) for _ in range(20)]),
    "with unread events": lambda client: (client.sendall(STREAM), client.recv(10), client.recv(10)),
    "at the end": lambda client: (client.sendall(SHORT), read_until(client, b"[DONE]")),
    "with a second request sent": lambda client: client.sendall(STREAM + WHOLE),
}


def read_until(client: socket.socket, end: bytes) -> None:
    got = b""
    while end not in got:
        got += client.recv(1000)


def left_behind(server: LiveServer) -> int:
    """How many generations the API still holds, once those that just end have had their time."""
    for _ in range(50):
        count = server.call(count_generations)  # a list of all objects is not safe beside a thread that makes some
        if count == 0:
            break
        time.sleep(0.05)
    return count


def count_generations() -> int:
    gc.collect()
    return sum(isinstance(found, Generation) for found in gc.get_objects())


@pytest.mark.parametrize("reset", [False, True], ids=["closing", "resetting"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_client_that_leaves_takes_everything_with_it(
    server: LiveServer, stage: str, reset: bool, caplog: pytest.LogCaptureFixture
) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    count = 5 if stage.startswith("before") else 2  # five have more rows than there are slots
    clients = [socket.create_connection((host, int(port)), timeout=20) for _ in range(count)]
    for client in clients:
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for client in clients:
        STAGES[stage](client)
    for client in clients:
        client.close()
    assert left_behind(server) == 0
    report = server.wait_idle()
    assert (report["running"], report["waiting"]) == (0, 0)
    assert [record.getMessage() for record in caplog.records] == []
    assert server.http.post("/v1/completions", json={"prompt": "x", "max_tokens": 1}).status_code == 200

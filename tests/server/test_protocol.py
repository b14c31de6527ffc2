"""The HTTP edge over plain sockets: what is not HTTP, too large or too slow."""

from __future__ import annotations

import contextlib
import json
import logging
import select
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.live import LiveServer
from wingbeat.server import protocol

BODY = b'{"prompt": "x", "max_tokens": 1}'
LINE = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
CHUNKED = LINE + b"Transfer-Encoding: chunked\r\n\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


class Connection:
    """A socket, and a reader of the replies that come through it."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.send = connection.sendall
        self._file = connection.makefile("rb")

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def reply(self) -> tuple[int, Any]:
        """Status and body of the next reply."""
        status = int(self._file.readline().split()[1])
        headers = dict(line.decode().split(": ", 1) for line in iter(self._file.readline, b"\r\n"))
        return status, json.loads(self._file.read(int(headers["content-length"])))

    def rest(self) -> bytes:
        """What comes until the server ends the connection."""
        return self._file.read()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """To be asked for before the connection, which waits from its beginning."""
    monkeypatch.setattr(protocol, "REQUEST_SECONDS", 0.2)
    monkeypatch.setattr(protocol, "LINGER_SECONDS", 0.2)


@pytest.fixture
def connection(server: LiveServer) -> Iterator[Connection]:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connected:
        yield Connection(connected)


def post(body: bytes, path: bytes = b"/v1/completions", *headers: bytes) -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: x", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join([*lines, b"", body])


def check_refusal(connection: Connection, status: int) -> str:
    """The next reply is OpenAI's error object and the last that comes. Gives its code."""
    got, body = connection.reply()
    assert got == status, body
    assert sorted(body["error"]) == ["code", "message", "param", "type"]
    assert body["error"]["type"] == "invalid_request_error"
    assert connection.rest() == b""
    return body["error"]["code"]


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"get / HTTP/1.1\r\n\r\n",
        "GET /é HTTP/1.1\r\n\r\n".encode(),
        b"GET http://[x/ HTTP/1.1\r\n\r\n",
        LINE + b"no colon\r\n\r\n",
        LINE + b"Content-Length : 3\r\n\r\nabc",
        LINE + b"X: a\0b\r\n\r\n",
        CHUNKED + b"zz\r\n",
    ],
)
def test_what_is_not_http_is_a_400_object(connection: Connection, sent: bytes) -> None:
    connection.send(sent)
    assert check_refusal(connection, 400) == "bad_http"


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5",
        b"Content-Length: 5\r\nContent-Length: 5",
        b"Content-Length: 5, 5",
        b"Content-Length: +5",
        b"Content-Length: 0x5",
        b"Content-Length: 99999999999999999999999",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding:\r\n chunked",
        b"Transfer-Encoding: \x0bchunked",
    ],
)
def test_a_body_whose_end_is_in_doubt_is_refused(connection: Connection, framing: bytes) -> None:
    connection.send(LINE + framing + b"\r\n\r\n0\r\n\r\n" + HEALTH)
    assert check_refusal(connection, 400) == "bad_http"


def test_http_1_0_has_no_chunks(connection: Connection) -> None:
    connection.send(CHUNKED.replace(b"1.1", b"1.0") + b"0\r\n\r\n")
    check_refusal(connection, 400)


def test_this_is_no_proxy(connection: Connection) -> None:
    connection.send(b"CONNECT other:80 HTTP/1.1\r\nHost: other\r\n\r\n")
    assert check_refusal(connection, 405) == "method_not_allowed"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /" + b"x" * protocol.MAX_TARGET, 414),
        (LINE + b"X: 1\r\n" * protocol.MAX_HEADERS + b"\r\n", 431),
        (LINE + b"X: " + b"x" * protocol.MAX_HEADER_BYTES + b"\r\n\r\n", 431),
        (LINE + (b"X: " + b"x" * 4000 + b"\r\n") * 17 + b"\r\n", 431),
        (CHUNKED + b"0\r\n" + b"X: 1\r\n" * protocol.MAX_HEADER_BYTES, 431),
    ],
)
@pytest.mark.parametrize("piece", [1000, 1 << 20])
def test_heads_have_limits(connection: Connection, sent: bytes, status: int, piece: int) -> None:
    for start in range(0, len(sent), piece):
        connection.send(sent[start : start + piece])
    assert check_refusal(connection, status) == "request_too_large"


@pytest.mark.parametrize("start", [LINE + b"X", LINE + b"X: ", CHUNKED + b"1;", CHUNKED + b"0\r\nX: "])
def test_what_never_ends_is_refused_while_it_comes(connection: Connection, start: bytes) -> None:
    connection.send(start)
    for _ in range(20):
        connection.send(b"x" * 10_000)
    check_refusal(connection, 431)


def test_large_heads_and_trailers_within_the_limits_are_taken(connection: Connection) -> None:
    headers = b"".join(b"X-%d: %s\r\n" % (index, b"x" * 500) for index in range(90))
    chunks = b"%x\r\n%s\r\n0\r\nContent-Type: x\r\n\r\n" % (len(BODY), BODY)
    connection.send(LINE + headers + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
    assert connection.reply()[0] == 200


@pytest.mark.parametrize("sent", [b"G", LINE, LINE + b"Content-Length: 5\r\n\r\nab", CHUNKED + b"1\r\na\r\n"])
def test_a_request_that_does_not_arrive_is_a_408(impatient: None, connection: Connection, sent: bytes) -> None:
    connection.send(sent)
    assert check_refusal(connection, 408) == "request_timeout"


def test_a_head_that_trickles_is_a_408(impatient: None, connection: Connection) -> None:
    connection.send(LINE)
    while not select.select([connection.socket], [], [], 0.01)[0]:
        connection.send(b"X: 1\r\n")
    assert check_refusal(connection, 408) == "request_timeout"


def test_a_long_body_has_longer(impatient: None, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "BODY_RATE", 10.0)
    body = BODY + b" " * 500
    connection.send(post(body)[:-100])
    assert not select.select([connection.socket], [], [], 2 * protocol.REQUEST_SECONDS)[0]
    connection.send(body[-100:])
    assert connection.reply()[0] == 200


@pytest.mark.parametrize("sent", [b"", b"\r\n"])
def test_an_idle_connection_is_closed(impatient: None, connection: Connection, sent: bytes) -> None:
    connection.send(sent)
    assert connection.rest() == b""


@pytest.mark.parametrize(
    ("request_", "more"), [(HEALTH, b"\r\n"), (post(BODY, b"/nothing")[:-5], BODY[-5:])], ids=["line ends", "a body"]
)
def test_a_connection_is_idle_in_spite_of_what_asks_nothing(
    impatient: None, connection: Connection, request_: bytes, more: bytes
) -> None:
    connection.send(request_)
    assert connection.reply()[0] in (200, 404)
    connection.send(more)
    assert connection.rest() == b""


def test_a_client_that_sends_before_it_reads_gets_the_refusal(connection: Connection) -> None:
    """Closing at once would reset the connection under the answer; what is still coming is dropped instead."""
    large = b" " * (40 << 20)
    connection.send(post(large))
    status, body = connection.reply()
    assert (status, body["error"]["code"]) == (413, "request_too_large")
    connection.send(HEALTH)
    assert connection.reply()[0] == 200


def test_a_refused_body_is_not_awaited_for_ever(impatient: None, connection: Connection) -> None:
    connection.send(LINE + b"Content-Length: 50000000\r\n\r\n")
    assert connection.reply()[0] == 413
    with contextlib.suppress(ConnectionError):
        assert connection.rest() == b""


def test_a_fault_in_a_body_that_nobody_waits_for_gets_no_second_answer(connection: Connection) -> None:
    connection.send(CHUNKED.replace(b"/v1/completions", b"/nothing"))
    assert connection.reply()[0] == 404
    connection.send(b"zz\r\n")
    assert connection.rest() == b""


def test_pipelined_requests_are_answered_in_order(connection: Connection) -> None:
    connection.send(post(BODY) + HEALTH + post(BODY))
    assert [sorted(connection.reply()[1])[0] for _ in range(3)] == ["choices", "model", "choices"]


@pytest.mark.parametrize("behind", [b"rubbish\r\n\r\n", LINE + b"X : 1\r\n", HEALTH * 100])
def test_a_fault_behind_a_request_leaves_its_answer_whole(connection: Connection, behind: bytes) -> None:
    connection.send(post(b'{"prompt": "x", "max_tokens": 50, "ignore_eos": true}') + behind)
    assert connection.reply()[1]["usage"]["completion_tokens"] == 50
    assert b'{"error"' not in connection.rest()


def test_an_offer_of_another_protocol_is_passed_over(connection: Connection) -> None:
    """As Java's client makes with each of its requests."""
    offer = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")
    for _ in range(2):
        request = post(BODY, b"/v1/completions", *offer)
        connection.send(request[:-5])
        connection.send(request[-5:])
        assert connection.reply()[0] == 200
    connection.send(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + HEALTH)
    assert [connection.reply()[0] for _ in range(2)] == [200, 200]


def test_a_client_that_leaves_with_requests_waiting_frees_its_slots(
    server: LiveServer, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    endless = b'{"prompt": "x", "max_tokens": 1000000, "ignore_eos": true, "stream": true}'
    connection.send(post(endless) + HEALTH + post(BODY))
    assert server.wait_for(lambda health: health["running"] == 1)["running"] == 1
    connection.close()
    assert server.wait_idle()["running"] == 0
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []

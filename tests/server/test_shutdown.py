"""The end of a server's life, in a process of its own: what still runs may finish, and nothing is left behind."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.test_cli import WINGBEAT, Served

ENDLESS = {"prompt": "x", "max_tokens": 1_000_000, "ignore_eos": True}

Start = Callable[..., Served]


@pytest.fixture
def start(model_path: Path) -> Iterator[Start]:
    started: list[Served] = []

    def serve(*flags: str, **env: str) -> Served:
        started.append(Served(str(model_path), *flags, **env))
        return started[-1]

    yield serve
    for served in started:
        served.process.kill()
        served.process.communicate()


def told_to_stop(served: Served, number: int = signal.SIGTERM) -> httpx.Response:
    """Send the signal; gives the first answer of /health that knows it."""
    served.process.send_signal(number)
    while (health := httpx.get(f"{served.url}/health")).status_code == 200:
        pass
    return health


def ended(served: Served, engines: list[psutil.Process]) -> None:
    """The server leaves with success, and its engine with it."""
    assert served.process.wait(15) == 0
    assert psutil.wait_procs(engines, timeout=5)[1] == []


def engines_of(served: Served) -> list[psutil.Process]:
    engines = psutil.Process(served.process.pid).children(recursive=True)
    assert engines
    return engines


def half_a_request(served: Served) -> tuple[socket.socket, bytes]:
    """A request whose body is not complete yet, and the rest of it."""
    body = json.dumps({"prompt": "x", "max_tokens": 3, "ignore_eos": True}).encode()
    host, port = served.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body[:5])
    while httpx.get(f"{served.url}/stats").json()["open_requests"] < 2:  # it and this one
        pass
    return connection, body[5:]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_runs_may_finish_and_nothing_new_begins(start: Start, number: int) -> None:
    served = start()
    engines = engines_of(served)
    with httpx.Client(base_url=served.url) as unused:
        assert unused.get("/health").status_code == 200  # its connection stays open, without a request
        connection, rest = half_a_request(served)
        health = told_to_stop(served, number)
        assert (health.status_code, health.json()["status"]) == (503, "stopping")
        assert httpx.get(f"{served.url}/health/live").status_code == 200
        refused = httpx.post(f"{served.url}/v1/completions", json=ENDLESS)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["connection"] == "close"
        assert "wingbeat_ready{" in httpx.get(f"{served.url}/metrics").text
        with connection, connection.makefile("rb") as reply:
            connection.sendall(rest)
            text = reply.read().decode()  # to the end of the connection
        assert text.startswith("HTTP/1.1 200 OK")
        assert "\r\nconnection: close\r\n" in text
        assert '"completion_tokens":3' in text
        ended(served, engines)


def test_at_the_deadline_what_still_runs_is_told(start: Start) -> None:
    served = start("--shutdown-seconds", "0.3")
    engines = engines_of(served)
    whole: list[httpx.Response] = []
    url = f"{served.url}/v1/completions"
    waiting = threading.Thread(target=lambda: whole.append(httpx.post(url, json=ENDLESS, timeout=30)))
    waiting.start()
    with httpx.stream("POST", url, json={**ENDLESS, "stream": True}, timeout=30) as reply:
        lines = reply.iter_lines()
        next(lines)
        while httpx.get(f"{served.url}/health").json()["running"] < 2:
            pass
        told_to_stop(served)
        *_, last = [line for line in lines if line]
    waiting.join()
    errors: list[dict[str, Any]] = [json.loads(last.removeprefix("data: ")), whole[0].json()]
    assert whole[0].status_code == 503
    for error in errors:
        assert error["error"]["code"] == "engine_unavailable"
        assert "stopping" in error["error"]["message"]
    ended(served, engines)
    assert "Traceback" not in served.stop(0)[2]


def test_a_server_that_is_still_loading_stops_too(model_path: Path) -> None:
    command = [*WINGBEAT, "serve", str(model_path), "--port", "0", "--threads", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        assert "loading" in process.stderr.readline()
        engines = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert "Traceback" not in process.stderr.read()
        assert process.wait(15) == 0
    assert psutil.wait_procs(engines, timeout=5)[1] == []


def test_a_log_that_nobody_reads_holds_up_neither_requests_nor_the_end(start: Start) -> None:
    served = start(WINGBEAT_LOG_FORMAT="json")
    engines = engines_of(served)
    with httpx.Client(base_url=served.url, headers={"x-request-id": "r" * 128}) as client:
        for _ in range(300):  # more lines than a pipe holds
            assert client.get("/" + "x" * 200).status_code == 404
        assert client.get("/health").status_code == 200
    served.process.send_signal(signal.SIGTERM)
    ended(served, engines)

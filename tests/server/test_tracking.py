"""Request ids, the access log, and the counts of requests."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import structlog

from tests.live import LiveServer, live_server, settings_for
from wingbeat.config import KeySettings

ROOT = Path(__file__).parent.parent.parent
ENDLESS = {"prompt": "the ", "max_tokens": 1_000_000, "ignore_eos": True}


@pytest.fixture(scope="module")
def server(model_path: Path) -> Iterator[LiveServer]:
    with live_server(
        settings_for(model_path, access_log=True, keys=[KeySettings(name="ann", key="secret")], default_max_tokens=50)
    ) as live:
        live.http.headers["authorization"] = "Bearer secret"
        yield live


@pytest.fixture
def log() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as entries:
        yield entries


def lines(server: LiveServer, log: list[Any], path: str) -> list[dict[str, Any]]:
    """The access log of `path`, once all requests have ended."""
    server.wait_idle()
    return [entry for entry in log if entry["event"] == "request" and entry["path"] == path]


@pytest.mark.parametrize("own", ["abc", "a" * 128, "with space and ~!"])
def test_a_client_may_bring_its_own_id(server: LiveServer, own: str) -> None:
    assert server.http.get("/v1/models", headers={"x-request-id": own}).headers["x-request-id"] == own


@pytest.mark.parametrize("unfit", ["", "a" * 129, "\u00e9", "a\tb"])
def test_an_id_that_is_unfit_is_replaced(server: LiveServer, unfit: str) -> None:
    reply = server.http.get("/v1/models", headers={"x-request-id": unfit.encode("latin-1")})
    assert reply.headers["x-request-id"].startswith("req_")


def test_every_reply_has_an_id_of_its_own(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(request: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(server.registry.models[0].client, "submit", broken)
    with httpx.Client(base_url=server.url) as stranger:
        replies = [
            stranger.get("/v1/models"),
            stranger.get("/health"),
            server.http.get("/nothing"),
            server.http.post("/v1/completions", json={"prompt": "x"}),
        ]
    assert [reply.status_code for reply in replies] == [401, 200, 404, 500]
    assert len({reply.headers["x-request-id"] for reply in replies}) == 4


def test_the_openai_package_shows_the_id(server: LiveServer) -> None:
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="secret")
    reply = client.completions.create(model="model", prompt="x", max_tokens=1, extra_headers={"x-request-id": "mine"})
    assert reply._request_id == "mine"
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="model", prompt="x", max_tokens=-5, extra_headers={"x-request-id": "bad"})
    assert refused.value.request_id == "bad"


@pytest.mark.parametrize("stream", [True, False])
def test_a_generation_is_logged_with_its_counts(server: LiveServer, log: list[Any], stream: bool) -> None:
    body = {"prompt": "the wing", "max_tokens": 7, "n": 2, "ignore_eos": True, "stream": stream}
    reply = server.http.post("/v1/completions", json=body, headers={"x-request-id": "r7"})
    assert reply.status_code == 200
    (line,) = lines(server, log, "/v1/completions")
    assert (line["method"], line["status"], line["key"], line["client"]) == ("POST", 200, "ann", "127.0.0.1")
    assert (line["prompt_tokens"], line["completion_tokens"], line["ended"]) == (2, 14, "length")
    assert line["request_id"] == "r7"
    assert 0 < line["first_token"] < line["seconds"]
    shown = (ROOT / "docs/operating.md").read_text(encoding="utf-8").split("```json\n")[1].split("```")[0]
    assert set(json.loads(shown)) - {"level", "timestamp"} == set(line) - {"log_level"}
    assert line["log_level"] == "info"


def test_a_client_that_leaves_is_logged_as_one(server: LiveServer, log: list[Any]) -> None:
    with server.http.stream("POST", "/v1/completions", json={**ENDLESS, "stream": True}) as reply:
        next(reply.iter_lines())
    (line,) = lines(server, log, "/v1/completions")
    assert (line["status"], line["ended"]) == (200, "cancelled")
    assert line["completion_tokens"] > 0


def test_a_stream_that_fails_is_logged_as_failed(server: LiveServer, log: list[Any]) -> None:
    with server.http.stream("POST", "/v1/completions", json={**ENDLESS, "stream": True}) as reply:
        stream = reply.iter_lines()
        next(stream)
        pid = server.registry.models[0].client.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert "error" in [line for line in stream if line][-1]
    server.wait_for(lambda health: health["status"] == "ok")
    (line,) = lines(server, log, "/v1/completions")
    assert (line["status"], line["ended"]) == (200, "error")


def test_what_programs_repeat_is_logged_for_developers_only(server: LiveServer, log: list[Any]) -> None:
    for path in ("/health", "/health/live", "/metrics", "/stats"):
        server.http.get(path)
        assert {line["log_level"] for line in lines(server, log, path)} == {"debug"}


def test_a_path_is_logged_as_it_was_sent(server: LiveServer, log: list[Any]) -> None:
    server.http.get("/v1/models/%0Aforged%1B%5B31m?secret=1")
    (line,) = lines(server, log, "/v1/models/%0Aforged%1B%5B31m")
    assert line["status"] == 404
    server.http.get("/" + "x" * 500)
    assert lines(server, log, "/" + "x" * 199)


def test_a_defect_is_logged_once_with_the_id(
    server: LiveServer, log: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(request: object) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(server.registry.models[0].client, "submit", broken)
    server.http.post("/v1/completions", json={"prompt": "x"}, headers={"x-request-id": "r9"})
    assert [line["status"] for line in lines(server, log, "/v1/completions")] == [500]
    (defect,) = [entry for entry in log if entry.get("exc_info")]
    assert (defect["event"], defect["request_id"]) == ("a request failed", "r9")
    assert not [record for record in caplog.records if record.name == "uvicorn.error"]


def test_an_answer_that_sets_no_limit_has_the_default_one(server: LiveServer) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "ignore_eos": True, "logit_bias": {"11": -100, "261": -100}}
    assert server.http.post("/v1/chat/completions", json=body).json()["usage"]["completion_tokens"] == 50


def test_without_the_access_log_there_are_no_lines(model_path: Path, log: list[Any]) -> None:
    with live_server(settings_for(model_path, access_log=False)) as live:
        live.http.get("/v1/models")
    # Another test's last request may end only now.
    assert [entry for entry in log if entry["event"] == "request" and entry["path"] == "/v1/models"] == []

"""Streams and their ends: disconnects free the slots, failures are events, a crash is survived."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from typing import Any

import httpx
import pytest

from tests.live import LiveServer
from wingbeat.engine.generation import Generation
from wingbeat.engine.messages import GenerationRequest, RowOutput
from wingbeat.server import streaming
from wingbeat.server.dialects.openai_answer import Answer
from wingbeat.server.step_writer import TextEvents

ENDLESS = {"prompt": "the ", "max_tokens": 1_000_000, "ignore_eos": True, "seed": 1}


def events(lines: list[str]) -> list[Any]:
    """The payloads of a finished stream, without the closing `[DONE]`, which must be there."""
    data = [line.removeprefix("data: ") for line in lines if line]
    assert data[-1] == "[DONE]"
    return [json.loads(item) for item in data[:-1]]


async def test_a_client_that_leaves_a_stream_frees_its_slots(server: LiveServer) -> None:
    async with (
        httpx.AsyncClient() as client,
        client.stream("POST", server.url + "/v1/completions", json={**ENDLESS, "n": 3, "stream": True}) as got,
    ):
        async for _ in got.aiter_lines():
            break
        assert server.wait_for(lambda health: health["running"] == 3)["running"] == 3
    assert server.wait_idle()["running"] == 0


async def test_a_client_that_leaves_a_plain_request_frees_its_slots(server: LiveServer) -> None:
    async with httpx.AsyncClient() as client:
        request = asyncio.create_task(client.post(server.url + "/v1/completions", json=ENDLESS))
        assert (await asyncio.to_thread(server.wait_for, lambda health: health["running"] == 1))["running"] == 1
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
    assert (await asyncio.to_thread(server.wait_idle))["running"] == 0


async def test_many_streams_with_random_disconnects(server: LiveServer) -> None:
    """Those that stay get what they would get alone; those that leave take nothing with them."""
    chance = random.Random(5)
    body = {"prompt": "wing", "max_tokens": 24, "seed": 7, "stream": True}
    limits = httpx.Limits(max_connections=100)
    async with httpx.AsyncClient(timeout=60, limits=limits) as client:
        whole = await client.post(server.url + "/v1/completions", json={**body, "stream": False})
        expected = whole.json()["choices"][0]["text"]

        async def run(leave_after: int | None) -> str | None:
            text = ""
            async with client.stream("POST", server.url + "/v1/completions", json=body) as reply:
                count = 0
                async for line in reply.aiter_lines():
                    if line.startswith("data: {"):
                        text += json.loads(line[6:])["choices"][0]["text"]
                        count += 1
                    if count == leave_after:
                        return None
            return text

        leave = [chance.randrange(1, 20) if chance.random() < 0.5 else None for _ in range(64)]
        texts = await asyncio.gather(*map(run, leave))
    assert {text for text, after in zip(texts, leave, strict=True) if after is None} == {expected}
    assert server.wait_idle() == {"status": "ok", "model": "tiny", "running": 0, "waiting": 0, "slots": 8}


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_crash_ends_replies_with_an_error_and_the_server_recovers(server: LiveServer, path: str) -> None:
    client = server.registry.models[0].client
    no_newlines = {"11": -100, "261": -100}  # the profile's stop would end a chat reply
    body = {**ENDLESS, "messages": [{"role": "user", "content": "x"}], "stream": True, "logit_bias": no_newlines}
    lines = []
    with server.http.stream("POST", path, json=body, timeout=30) as reply:
        for line in reply.iter_lines():
            if not lines:
                assert client.pid is not None
                os.kill(client.pid, signal.SIGKILL)
            lines.append(line)
    error = json.loads(lines[-2].removeprefix("data: "))["error"]
    assert error["type"] == "server_error"
    assert "[DONE]" not in lines[-2]
    refused = server.http.post(path, json=body)
    assert refused.status_code == 503
    assert refused.headers["retry-after"]
    assert refused.json()["error"]["code"] == "engine_unavailable"
    health = server.http.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "restarting")
    assert server.wait_for(lambda health: health["status"] == "ok")["status"] == "ok"
    assert server.http.post("/v1/completions", json={"prompt": "x"}).status_code == 200


class _Failing(Generation):
    """A generation whose row fails, or that ends before its row does."""

    def __init__(self, request: GenerationRequest, outputs: list[RowOutput]) -> None:
        super().__init__(request, lambda generation: None)
        self._outputs = outputs

    async def __anext__(self) -> list[RowOutput]:
        if not self._outputs:
            raise StopAsyncIteration
        return [self._outputs.pop(0)]


@pytest.mark.parametrize(
    ("last", "status"),
    [
        (RowOutput(1, 0, finish_reason="error", error="the step failed"), 500),
        (RowOutput(1, 0, finish_reason="cancelled"), 503),
        (RowOutput(1, 0, text="more"), 503),
    ],
)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_failed_generation_is_never_a_success(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, path: str, last: RowOutput, status: int
) -> None:
    model = server.registry.models[0]
    monkeypatch.setattr(model.client, "submit", lambda request: _Failing(request, [RowOutput(1, 0, text="some"), last]))
    body = {"prompt": "x", "messages": [{"role": "user", "content": "x"}]}
    plain = server.http.post(path, json=body)
    assert plain.status_code == status
    assert plain.json()["error"]["message"]
    streamed = server.http.post(path, json={**body, "stream": True})
    assert streamed.status_code == 200
    final = json.loads(streamed.text.strip().splitlines()[-1].removeprefix("data: "))
    assert final == plain.json()


@pytest.mark.parametrize("stage", ["step", "text_events"])
def test_a_defect_in_the_rendering_ends_its_stream_only(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def broken(text: str) -> str:
        raise ZeroDivisionError

    client = server.registry.models[0].client
    restarts = client.restarts
    with monkeypatch.context() as patch:
        if stage == "step":
            patch.setattr(Answer, "step", lambda self, rows: 1 / 0)
        else:
            patch.setattr(Answer, "text_events", lambda self: TextEvents(broken, b"", b""))
        reply = server.http.post("/v1/completions", json={**ENDLESS, "max_tokens": 50, "stream": True})
    last = json.loads(reply.text.strip().splitlines()[-1].removeprefix("data: "))
    assert last["error"]["code"] == "internal_error"
    assert server.http.post("/v1/completions", json={"prompt": "x"}).status_code == 200
    assert client.restarts == restarts


class _Patient(_Failing):
    """A generation whose outputs are long in coming, but do come however often the reader asks."""

    async def __anext__(self) -> list[RowOutput]:
        loop = asyncio.get_running_loop()
        self._due = getattr(self, "_due", loop.time() + 0.05)
        await asyncio.sleep(self._due - loop.time())
        del self._due
        return await super().__anext__()


def test_a_silent_stream_sends_comments(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    model = server.registry.models[0]
    monkeypatch.setattr(streaming, "PAUSE_SECONDS", 0.02)
    last = RowOutput(1, 0, text="end", finish_reason="length")
    monkeypatch.setattr(model.client, "submit", lambda request: _Patient(request, [RowOutput(1, 0, text="some"), last]))
    reply = server.http.post("/v1/completions", json={"prompt": "x", "stream": True})
    assert reply.text.startswith(": waiting\n\n")
    told = events([line for line in reply.text.splitlines() if line != ": waiting"])
    assert [event["choices"][0]["text"] for event in told] == ["some", "end"]


def test_a_stream_is_not_to_be_buffered(server: LiveServer) -> None:
    reply = server.http.post("/v1/completions", json={"prompt": "x", "stream": True})
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.headers["cache-control"] == "no-cache"
    assert len(events(reply.text.splitlines())) >= 1

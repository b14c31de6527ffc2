"""Each failure as the `openai` package shows it: the class, and message, param and code to be read."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.live import LiveServer, live_server, settings_for
from wingbeat.engine.client import Generation, QueueFull
from wingbeat.engine.messages import GenerationRequest, RowOutput

HELLO: Any = [{"role": "user", "content": "hello"}]
ENDPOINTS: dict[str, Callable[..., Any]] = {
    "chat": lambda client, **more: client.chat.completions.create(**{"model": "tiny", "messages": HELLO, **more}),
    "completions": lambda client, **more: client.completions.create(**{"model": "tiny", "prompt": "x", **more}),
}


@pytest.fixture(scope="module")
def guarded(model_path: Path) -> Iterator[LiveServer]:
    """Two keys, and bodies of 20 kB at most."""
    with live_server(settings_for(model_path, api_keys=["first", "second"], max_body_mb=0.02)) as live:
        yield live


@pytest.fixture(params=list(ENDPOINTS))
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return ENDPOINTS[request.param]


def check(error: openai.APIError, code: str, param: str | None = None) -> None:
    assert (error.code, error.param) == (code, param)
    assert error.message
    assert error.type


def test_bad_request(client: OpenAI, ask: Callable[..., Any]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, temperature=3)
    check(caught.value, "invalid_value", "temperature")
    assert "at most 2" in caught.value.message


def test_authentication(guarded: LiveServer, ask: Callable[..., Any]) -> None:
    for key in ("first", "second"):
        with OpenAI(base_url=f"{guarded.url}/v1", api_key=key, max_retries=0) as known:
            assert ask(known, max_tokens=1).choices
    with OpenAI(base_url=f"{guarded.url}/v1", api_key="third", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError) as caught:
            ask(stranger)
        check(caught.value, "invalid_api_key")
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()


def test_every_code_is_described() -> None:
    root = Path(__file__).parents[2]
    sources = [path.read_text(encoding="utf-8") for path in (root / "src/wingbeat/server").rglob("*.py")]
    codes = {code for source in sources for code in re.findall(r'code="(\w+)"', source)}
    assert "rate_limit_exceeded" in codes
    table = (root / "docs/api.md").read_text(encoding="utf-8").split("## Errors")[1]
    assert {code for code in codes if f"`{code}`" not in table} == set()


def test_not_found(client: OpenAI, ask: Callable[..., Any]) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, model="gpt-4")
    check(caught.value, "model_not_found", "model")


@pytest.mark.parametrize("size", [30_000, 3_000_000])
def test_too_large(guarded: LiveServer, size: int) -> None:
    with OpenAI(base_url=f"{guarded.url}/v1", api_key="first", max_retries=0) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            client.completions.create(model="tiny", prompt="x" * size)
        assert caught.value.status_code == 413
        check(caught.value, "request_too_large")
        assert client.completions.create(model="tiny", prompt="x", max_tokens=1).choices


class _Full:
    """A queue with no room for the first requests."""

    def __init__(self, submit: Callable[[GenerationRequest], Generation], refusals: int) -> None:
        self._submit = submit
        self._refusals = refusals

    def __call__(self, request: GenerationRequest) -> Generation:
        if self._refusals:
            self._refusals -= 1
            raise QueueFull(9, 7.2)
        return self._submit(request)


@pytest.mark.parametrize("stream", [False, True])
def test_rate_limit(
    server: LiveServer, client: OpenAI, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    engine = server.registry.models[0].client
    monkeypatch.setattr(engine, "submit", _Full(engine.submit, 1))
    with pytest.raises(openai.RateLimitError) as caught:
        ask(client, stream=stream)
    check(caught.value, "queue_full")
    assert caught.value.response.headers["retry-after"] == "7"


def test_the_client_tries_again_after_the_time_it_is_told(
    server: LiveServer, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = server.registry.models[0].client
    monkeypatch.setattr(engine, "submit", _Full(engine.submit, 2))
    waits: list[float] = []
    monkeypatch.setattr("openai._base_client.time.sleep", waits.append)
    with OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=2) as patient:
        assert ask(patient, max_tokens=1).choices
    assert waits == [7, 7]


def test_unavailable(
    server: LiveServer, client: OpenAI, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.registry.models[0].client, "status", "restarting")
    with pytest.raises(openai.InternalServerError) as caught:
        ask(client)
    assert caught.value.status_code == 503
    check(caught.value, "engine_unavailable")
    assert caught.value.response.headers["retry-after"]


@pytest.mark.parametrize(
    ("last", "code"),
    [
        (RowOutput(1, 0, finish_reason="error", error="the step failed"), "generation_failed"),
        (RowOutput(1, 0, finish_reason="cancelled"), "engine_unavailable"),
    ],
)
def test_failures_in_the_middle_of_a_stream(
    server: LiveServer,
    client: OpenAI,
    ask: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    last: RowOutput,
    code: str,
) -> None:
    def submit(request: GenerationRequest) -> Generation:
        generation = Generation(request, lambda _: None)
        loop = asyncio.get_running_loop()
        loop.call_soon(generation.feed, [RowOutput(1, 0, "some", [5])])
        loop.call_later(0.02, generation.feed, [last])
        return generation

    monkeypatch.setattr(server.registry.models[0].client, "submit", submit)
    told = ""
    with pytest.raises(openai.APIError) as caught:  # noqa: PT012 (it fails somewhere in the middle)
        for chunk in ask(client, stream=True):
            (choice,) = chunk.choices
            told += (choice.delta.content if hasattr(choice, "delta") else choice.text) or ""
    assert told == "some"
    check(caught.value, code)
    with pytest.raises(openai.InternalServerError) as whole:
        ask(client)
    check(whole.value, code)

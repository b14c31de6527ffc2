"""Keys, origins, limits, health and the OpenAPI document, without an engine."""

from __future__ import annotations

import asyncio
import base64
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from tests.live import settings_for
from wingbeat.config import ConfigError, KeySettings, Settings
from wingbeat.server.app import build_registry, create_app


def app_for(model: Path, **changes: Any) -> FastAPI:
    """An application whose engine is never started: it stays loading."""
    settings = settings_for(model, **changes)
    return create_app(settings, build_registry(settings))


def client_for(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://test")


@pytest.fixture
async def locked(model_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    keys = [KeySettings(name="the third", key="third")]
    async with client_for(app_for(model_path, api_keys=["first", "sécond"], keys=keys)) as client:
        yield client


@pytest.mark.parametrize(
    "path", ["/v1/models", "/openai/v1/models", "/docs", "/openapi.json", "/", "/metrics", "/stats", "/nothing"]
)
async def test_everything_needs_the_key(locked: httpx.AsyncClient, path: str) -> None:
    for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": "first"}, {"authorization": "Basic first"}):
        reply = await locked.get(path, headers=header)
        assert reply.status_code == 401
        assert reply.json()["error"]["code"] == "invalid_api_key"
        assert reply.headers["www-authenticate"] == "Bearer"
    assert (await locked.get(path, headers={"authorization": "Bearer first"})).status_code != 401


@pytest.mark.parametrize("key", ["first", "sécond", "third"])
async def test_every_key_opens_in_every_header(locked: httpx.AsyncClient, key: str) -> None:
    for name, value in (("authorization", f"bearer {key}"), ("x-api-key", key), ("api-key", key)):
        assert (await locked.get("/v1/models", headers={name.encode(): value.encode()})).status_code == 200
    wrong = {"authorization": "Bearer wrong", "x-api-key": "wrong"}
    assert (await locked.get("/v1/models", headers=wrong)).status_code == 401
    assert (await locked.get("/v1/models", headers={**wrong, "api-key": "first"})).status_code == 200


async def test_a_browser_is_asked_for_the_key_and_may_read_with_it(locked: httpx.AsyncClient) -> None:
    html = {"accept": "text/html,*/*"}
    for path in ("/", "/docs", "/metrics"):
        assert (await locked.get(path, headers=html)).headers["www-authenticate"].startswith("Basic realm=")
        for key in ("first", "sécond"):
            given = {"authorization": "Basic " + base64.b64encode(f"anyone:{key}".encode()).decode()}
            assert (await locked.get(path, headers=html | given)).status_code == 200
    posted = await locked.post("/v1/completions", json={"prompt": "x"}, headers=html | given)
    assert (posted.status_code, posted.headers["www-authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize("value", ["", "%%%", "Zmlyc3Q=", base64.b64encode(b"x:wrong").decode(), "é", "Zmlyc3Q"])
async def test_basic_credentials_that_are_none(locked: httpx.AsyncClient, value: str) -> None:
    header = {b"authorization": f"Basic {value}".encode()}
    assert (await locked.get("/v1/models", headers=header)).status_code == 401
    assert (await locked.get("/v1/models", headers=header | {b"x-api-key": b"first"})).status_code == 200


async def test_health_needs_no_key(locked: httpx.AsyncClient) -> None:
    assert (await locked.get("/health")).json()["status"] == "loading"
    assert (await locked.get("/health/live")).json() == {"status": "alive"}


async def test_health_answers_head_without_a_body(locked: httpx.AsyncClient) -> None:
    reply = await locked.head("/health")
    assert (reply.status_code, reply.content) == (503, b"")


async def test_a_closing_slash_lists_the_models(model_path: Path) -> None:
    async with client_for(app_for(model_path)) as client:
        assert (await client.get("/v1/models/")).json() == (await client.get("/v1/models")).json()


async def test_a_model_that_cannot_be_prepared_has_failed(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (model,) = build_registry(settings_for(model_path)).models

    async def broken() -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(model.client, "start", lambda: asyncio.sleep(0))
    monkeypatch.setattr(model.client, "wait_ready", broken)
    await model.start()
    assert model.loading is not None
    await model.loading
    assert (model.status, model.failure) == ("failed", "unforeseen")


async def test_a_preflight_needs_no_key(locked: httpx.AsyncClient) -> None:
    headers = {"origin": "http://x.test", "access-control-request-method": "POST"}
    assert (await locked.options("/v1/completions", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("host", "configured", "origin", "allowed"),
    [
        ("127.0.0.1", [], "http://any.test", "*"),
        ("::1", [], "http://any.test", "*"),
        ("localhost", ["http://a.test"], "http://a.test", "http://a.test"),
        ("localhost", ["http://a.test"], "http://b.test", None),
        ("0.0.0.0", [], "http://any.test", None),
        ("0.0.0.0", ["http://a.test"], "http://a.test", "http://a.test"),
        ("0.0.0.0", ["http://a.test"], "http://b.test", None),
    ],
)
async def test_origins(model_path: Path, host: str, configured: list[str], origin: str, allowed: str | None) -> None:
    async with client_for(app_for(model_path, host=host, cors_origins=configured)) as client:
        reply = await client.get("/v1/models", headers={"origin": origin})
        assert reply.headers.get("access-control-allow-origin") == allowed
        exposed = reply.headers.get("access-control-expose-headers", "").lower().split(", ")
        assert allowed is None or {"x-request-id", "retry-after", "x-ratelimit-remaining-tokens"} <= set(exposed)
        asked = {"origin": origin, "access-control-request-method": "POST"}
        if host == "localhost":
            preflight = await client.options("/v1/completions", headers=asked)
            assert (preflight.status_code == 200) == (allowed is not None)
            assert allowed is not None or preflight.json()["error"]["type"] == "invalid_request_error"


async def test_a_large_body_is_refused_by_its_length_and_while_it_is_read(model_path: Path) -> None:
    app = app_for(model_path, max_body_mb=0.001)

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 100

    async with client_for(app) as client:
        for content in (b" " * 2000, endless()):
            reply = await client.post("/v1/completions", content=content)
            assert reply.status_code == 413
            assert reply.json()["error"]["code"] == "request_too_large"
        assert (await client.post("/v1/completions", content=b'{"prompt": "x"}')).status_code == 503


async def test_while_loading_requests_get_503(model_path: Path) -> None:
    async with client_for(app_for(model_path)) as client:
        health = await client.get("/health")
        assert health.status_code == 503
        assert (health.json()["status"], health.json()["model"]) == ("loading", "tiny")
        for path, body in (
            ("/v1/completions", {"prompt": "x"}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "stream": True}),
        ):
            reply = await client.post(path, json=body)
            assert reply.status_code == 503
            assert reply.json()["error"]["code"] == "engine_unavailable"
            assert int(reply.headers["retry-after"]) >= 1


async def test_any_model_serves_every_name(model_path: Path) -> None:
    async with client_for(app_for(model_path, any_model=True)) as client:
        reply = await client.post("/v1/completions", json={"prompt": "x", "model": "gpt-4"})
        assert reply.status_code == 503  # found, though still loading


async def test_the_openapi_document(model_path: Path) -> None:
    async with client_for(app_for(model_path, api_keys=["k"])) as client:
        document = (await client.get("/openapi.json", headers={"authorization": "Bearer k"})).json()
    assert set(document["paths"]) == {
        "/health",
        "/health/live",
        "/metrics",
        "/models/load",
        "/stats",
        "/v2/chat/completions",
        "/v3/chat/completions",
        "/big_batch/completions",
        "/FIM/v1/batch-FIM",
        "/translate/v1/batch-translate",
        "/state/chat/completions",
        "/state/status",
        "/state/delete",
        "/multi_state/chat/completions",
        "/v1/models",
        "/v1/models/{model_id}",
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/responses/input_tokens",
        "/v1/chooses",
        "/v1/embeddings",
        "/v1/embeds",
        "/api/oai/embeds",
        "/api/oai/chooses",
        "/v1/sessions",
        "/v1/sessions/{session_id}",
        "/v1/states",
        "/v1/states/load",
        "/v1/states/load/{name}",
        "/v1/states/{state_id}",
        "/v1/states/{state_id}/content",
        "/tokenize",
        "/detokenize",
        "/tokenizer_info",
    }
    schemas = document["components"]["schemas"]
    chat = document["paths"]["/v1/chat/completions"]["post"]
    bodies = chat["requestBody"]["content"]["application/json"]["schema"]["anyOf"]
    assert [body["$ref"].rsplit("/", 1)[-1] for body in bodies] == ["LightningChatBody", "BatchBody"]
    assert set(chat["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    assert set(chat["responses"]) == {"200", "400", "401", "404", "409", "413", "415", "429", "500", "503"}
    assert schemas["ResponsesBody"]["required"] == ["input"]
    assert "HTTPValidationError" not in schemas
    for reference in _references(document):
        assert reference.rsplit("/", 1)[-1] in schemas
    assert document["security"] == [{"key": []}]
    locked = {path for path, methods in document["paths"].items() if methods.get("get", {}).get("security") != []}
    assert set(document["paths"]) - locked == {"/health", "/health/live"}


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [reference for value in node.values() for reference in _references(value)]
    return [reference for value in node for reference in _references(value)] if isinstance(node, list) else []


async def test_the_root_and_the_documentation_page(model_path: Path) -> None:
    async with client_for(app_for(model_path)) as client:
        assert (await client.get("/")).json()["docs"] == "/docs"
        page = (await client.get("/docs")).text
        sources = re.findall(r'(?:src|href)="([^"]+)"', page)
        assert len(sources) >= 2
        for source in sources:  # nothing from elsewhere
            assert (await client.get(f"/{source}")).status_code == 200
        assert "://" not in page


def test_a_missing_model_file_is_found_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no file"):
        build_registry(Settings.model_construct(model=str(tmp_path / "none.pth")))


def test_the_server_process_does_not_load_the_engine(model_path: Path) -> None:
    code = (
        "import sys\n"
        "from wingbeat.config import Settings\n"
        "from wingbeat.server.app import build_registry, create_app\n"
        "settings = Settings()\n"
        "create_app(settings, build_registry(settings))\n"
        "print([name for name in sys.modules if name in ('wingbeat.engine.engine', 'wingbeat.models', 'wingbeat.llm')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"

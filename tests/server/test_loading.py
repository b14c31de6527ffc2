"""`POST /models/load` on a live server with real engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.live import LiveServer, live_server, settings_for, write_model
from tests.random_models import normal, write_pth


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_model(folder, "first")
    write_model(folder, "second")
    write_pth(folder / "poet.pth", {f"blocks.{i}.att.time_state": normal(1, str(i), 1, 64, 64) for i in range(2)})
    key = "blocks.0.att.key"
    write_pth(folder / "lora.pth", {f"{key}.lora_A": normal(1, "A", 4, 64), f"{key}.lora_B": normal(1, "B", 64, 4)})
    (folder / "damaged.safetensors").write_bytes((folder / "first.safetensors").read_bytes()[:-500])
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[LiveServer]:
    settings = settings_for(folder / "first.safetensors", models_dir=folder, allow_load=True, shutdown_seconds=5)
    with live_server(settings) as live:
        yield live


def load(server: LiveServer, **body: Any) -> httpx.Response:
    return server.http.post("/models/load", json=body)


def logprobs(server: LiveServer, **extra: Any) -> list[float]:
    body = {"prompt": [60, 70], "max_tokens": 4, "logprobs": 0, "seed": 1, "ignore_eos": True, **extra}
    return server.http.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]["token_logprobs"]


def test_another_model_is_served(server: LiveServer) -> None:
    before = logprobs(server)
    reply = load(server, model="second", dtype="int8", max_batch=3)
    assert reply.status_code == 200, reply.text
    assert (reply.json()["status"], reply.json()["model"], reply.json()["slots"]) == ("ok", "second", 3)
    assert server.health()["model"] == "second"
    assert [card["id"] for card in server.http.get("/v1/models").json()["data"]] == ["second"]
    assert logprobs(server) != before
    assert 'model="second"' in server.http.get("/metrics").text
    assert server.http.get("/stats").json()["models"][0]["dtype"] == "int8"
    assert load(server, model="first.safetensors").status_code == 200
    assert logprobs(server) == before  # with the settings of the start


def test_with_an_adapter_and_a_state(server: LiveServer) -> None:
    plain = logprobs(server)
    reply = load(server, model="first", loras=[{"file": "lora.pth", "alpha": 2}], states={"poet": "poet.pth"})
    assert reply.status_code == 200, reply.text
    adapted = logprobs(server)
    assert adapted != plain
    assert logprobs(server, state="poet") != adapted
    assert load(server, model="second").status_code == 200  # another model begins without them
    assert server.http.post("/v1/completions", json={"prompt": [1], "state": "poet"}).status_code == 404


REFUSED = [
    ({}, 400, "model"),
    ({"model": "third"}, 400, "third"),
    ({"model": "../first.safetensors"}, 400, "not a path"),
    ({"model": "/etc/passwd"}, 400, "not a path"),
    ({"model": "damaged"}, 400, "damaged"),
    ({"model": "poet"}, 400, "tuned initial state"),
    ({"model": "first", "dtype": "int3"}, 400, "dtype"),
    ({"model": "first", "dtype": "int8", "quant": "int4"}, 400, "quantises everything"),
    ({"model": "first", "strategy": "cuda fp17"}, 400, "Invalid strategy"),
    ({"model": "first", "states": {"a": "../poet.pth"}}, 400, "models folder"),
    ({"model": "first", "loras": [{"file": "none.pth"}]}, 400, "none.pth"),
    ({"model": "first", "default_state": "poet"}, 400, "no initial state"),
    ({"model": "first", "what": 1}, 400, "what"),
]


def test_what_cannot_be_loaded_changes_nothing(server: LiveServer) -> None:
    before, pid = logprobs(server), server.registry.first.client.pid
    for body, status, word in REFUSED:
        reply = load(server, **body)
        assert (reply.status_code, word in reply.text) == (status, True), (body, reply.text)
    assert logprobs(server) == before
    assert server.registry.first.client.pid == pid


def test_a_stream_goes_on_while_a_model_is_loaded(server: LiveServer) -> None:
    body = {"prompt": [60], "max_tokens": 3000, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=30) as stream:
        lines = stream.iter_lines()
        next(lines)
        assert load(server, model="second").status_code == 200
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert '"finish_reason":"length"' in rest[-2]


def test_only_where_it_is_allowed(folder: Path) -> None:
    with live_server(settings_for(folder / "first.safetensors", models_dir=folder)) as live:
        reply = load(live, model="second")
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "loading_not_allowed")
        assert "--allow-load" in reply.text

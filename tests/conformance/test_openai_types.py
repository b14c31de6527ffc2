"""Replies and events against the `openai` package's own types, which the package itself never checks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai.pagination import SyncPage
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from openai.types.responses.input_token_count_response import InputTokenCountResponse
from pydantic import TypeAdapter

from tests.live import LiveServer
from wingbeat.text.profile import PROFILES

CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 12, "seed": 1}
COMPLETION = {"prompt": ["the wing", "x"], "n": 2, "max_tokens": 8, "seed": 1}
RESPONSE = {"input": "hello", "max_output_tokens": 12, "seed": 1}
ENDS = {"logit_bias": {"0": 100}}
"""At once: token 0 is the end of text."""

CASES: list[tuple[str, Any, Any, dict[str, Any]]] = [
    *(
        ("chat/completions", ChatCompletion, ChatCompletionChunk, {**CHAT, **extra})
        for extra in ({}, {"logprobs": True, "top_logprobs": 2, "n": 2}, {"reasoning_effort": "high"}, ENDS)
    ),
    *(
        ("completions", Completion, Completion, {**COMPLETION, **extra})
        for extra in ({}, {"logprobs": 3}, {"echo": True}, ENDS)
    ),
    *(
        ("responses", Response, ResponseStreamEvent, {**RESPONSE, **extra})
        for extra in ({}, {"top_logprobs": 2, "metadata": {"a": "b"}}, {"reasoning": {"effort": "high"}}, ENDS)
    ),
]


@pytest.fixture(autouse=True)
def thinking(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.registry.models[0], "_profile", PROFILES["g1"])


def events(server: LiveServer, path: str, body: dict[str, Any]) -> Iterator[Any]:
    with server.http.stream("POST", f"/v1/{path}", json={**body, "stream": True}) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                yield json.loads(line.removeprefix("data: "))


@pytest.mark.parametrize(("path", "whole", "event", "body"), CASES)
def test_replies_are_what_the_package_says(
    server: LiveServer, path: str, whole: Any, event: Any, body: dict[str, Any]
) -> None:
    reply = server.http.post(f"/v1/{path}", json=body)
    TypeAdapter(whole).validate_json(reply.content, strict=True)
    options = {} if path == "responses" else {"stream_options": {"include_usage": True}}
    seen = list(events(server, path, body | options))
    assert len(seen) > 2
    for item in seen:
        if path == "completions":  # its one type for both knows nothing of what is unfinished
            item["choices"] = [{**choice, "finish_reason": "stop"} for choice in item["choices"]]
        TypeAdapter(event).validate_python(item, strict=True)


def test_models_and_counts(server: LiveServer) -> None:
    assert SyncPage[Model].model_validate(server.http.get("/v1/models").json(), strict=True).data
    Model.model_validate(server.http.get("/v1/models/tiny").json(), strict=True)
    counted = server.http.post("/v1/responses/input_tokens", json={"input": "hello"}).json()
    InputTokenCountResponse.model_validate(counted, strict=True)

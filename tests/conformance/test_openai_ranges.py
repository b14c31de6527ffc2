"""Every field of the bodies that generate: a value that the OpenAPI document does not allow is refused by its name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.live import LiveServer

ROUTES = {
    "/v1/completions": {"prompt": "x", "max_tokens": 1},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1},
    "/v1/responses": {"input": "x", "max_output_tokens": 1},
}

BODIES = {
    "/v1/completions": "CompletionBody",
    "/v1/chat/completions": "LightningChatBody",
    "/v1/responses": "ResponsesBody",
}

OF_ALL_TYPES: list[Any] = [True, False, 0, -1, 5, 0.5, 2**70, "", "x", [], ["x"], [-1], [None], {}, {"x": 5}]

NO_LIMIT = {-1}
TAKEN_TOO: dict[str, set[Any]] = {
    **dict.fromkeys(
        ("max_completion_tokens", "max_output_tokens", "n_predict", "num_predict", "max_new_tokens"), NO_LIMIT
    ),
    "max_tokens": NO_LIMIT,
}
"""Values that stand for an absent field, as other servers have them, and that the document does not advertise."""


@pytest.mark.parametrize("path", ROUTES)
def test_null_means_absent(server: LiveServer, path: str) -> None:
    for name in document(server)["components"]["schemas"][BODIES[path]]["properties"].keys() - ROUTES[path].keys():
        reply = server.http.post(path, json=ROUTES[path] | {name: None})
        assert reply.status_code == 200, (name, reply.text)


def document(server: LiveServer) -> dict[str, Any]:
    return server.http.get("/openapi.json").json()


def bounds(schema: Any) -> Iterator[Any]:
    """Values just outside of what a schema says of numbers, texts and lists."""
    if isinstance(schema, dict):
        for name, step in (("minimum", -1), ("maximum", 1), ("exclusiveMinimum", 0), ("exclusiveMaximum", 0)):
            if name in schema:
                yield schema[name] + step
                if schema.get("type") == "number" and step:
                    yield schema[name] + step * 0.001
        if "maxLength" in schema and schema["maxLength"] < 10_000:
            yield "x" * (schema["maxLength"] + 1)
        if "maxItems" in schema and schema["maxItems"] < 10_000:
            yield [5] * (schema["maxItems"] + 1)
            yield ["x"] * (schema["maxItems"] + 1)
        for part in schema.values():
            yield from bounds(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from bounds(part)


def refused_values(schema: dict[str, Any], components: dict[str, Any], name: str) -> Iterator[Any]:
    validator = Draft202012Validator({**schema, "components": components})
    for value in [*OF_ALL_TYPES, *bounds(schema)]:
        if not validator.is_valid(value) and not (isinstance(value, int) and value in TAKEN_TOO.get(name, ())):
            yield value


@pytest.mark.parametrize("path", ROUTES)
def test_what_the_document_does_not_allow_is_refused_by_its_name(server: LiveServer, path: str) -> None:
    told = document(server)
    properties = told["components"]["schemas"][BODIES[path]]["properties"]
    assert len(properties) > 80
    problems, tried = [], 0
    for name, schema in properties.items():
        for value in refused_values(schema, told["components"], name):
            tried += 1
            reply = server.http.post(f"/openai{path}", json={**ROUTES[path], name: value})
            error = reply.json().get("error") or {}
            place = (error.get("param") or "").replace("[", ".").split(".")[0]
            if reply.status_code != 400 or place != name:
                problems.append((name, str(value)[:60], reply.status_code, error.get("param"), error.get("message")))
    assert problems == []
    assert tried > 1000

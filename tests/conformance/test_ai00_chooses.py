"""Ai00's ranking of choices, held against log-probabilities that completions tell."""

from __future__ import annotations

from typing import Any

import pytest
from openai import OpenAI

from tests.live import LiveServer
from wingbeat.server.dialects.ai00_schema import ChoosesReply
from wingbeat.text.world import WorldTokenizer

PATHS = ["/v1/chooses", "/openai/v1/chooses", "/api/oai/chooses", "/api/oai/v1/chooses"]
INPUT = "the wing beats over the " * 8
CHOICES = [" wing", "beat", " wing", ""]


def chooses(server: LiveServer, path: str = PATHS[2], **body: Any) -> Any:
    reply = server.http.post(path, json=body)
    assert reply.status_code == 200, reply.text
    ChoosesReply.model_validate(reply.json())
    return reply.json()["data"]


def mean_loss(client: OpenAI, tokenizer: WorldTokenizer, context: list[int], choice: str) -> float:
    ids = tokenizer.encode(choice)
    body: dict[str, Any] = {"model": "tiny", "prompt": context + ids, "echo": True, "logprobs": 0, "max_tokens": 0}
    shown = client.completions.create(**body).choices[0].logprobs
    assert shown is not None
    logprobs = [value for value in (shown.token_logprobs or [])[len(context) :] if value is not None]
    return -sum(logprobs) / len(ids)


@pytest.mark.parametrize("path", PATHS)
def test_choices_are_ranked(server: LiveServer, client: OpenAI, tokenizer: WorldTokenizer, path: str) -> None:
    """Ai00's own example."""
    data = chooses(server, path, input=[INPUT], choices=CHOICES)
    assert [choice["object"] for choice in data] == ["choice"] * 4
    assert [choice["rank"] for choice in data] == [0, 1, 2, 3]
    values = [choice["perplexity"] for choice in data]
    assert values[:3] == sorted(values[:3])
    assert (data[3]["index"], values[3]) == (3, None)
    same = [choice for choice in data if choice["index"] in (0, 2)]
    assert [choice["index"] for choice in same] == [0, 2]
    assert same[0]["perplexity"] == same[1]["perplexity"]
    for choice in data[:3]:
        want = mean_loss(client, tokenizer, tokenizer.encode(INPUT), CHOICES[choice["index"]])
        assert choice["perplexity"] == pytest.approx(want, abs=1e-4)


def test_parts_of_the_input_are_one_text(server: LiveServer) -> None:
    assert chooses(server, input=["the ", "wi", "ng"], choices=["x"]) == chooses(
        server, input="the wing", choices=["x"]
    )


def test_without_an_input_choices_begin_a_document(
    server: LiveServer, client: OpenAI, tokenizer: WorldTokenizer
) -> None:
    want = mean_loss(client, tokenizer, [0], "wing")
    for empty in ({}, {"input": None}, {"input": ""}, {"input": []}):
        (choice,) = chooses(server, choices=["wing"], **empty)
        assert choice["perplexity"] == pytest.approx(want, abs=1e-4)


def test_calibrating(server: LiveServer, client: OpenAI, tokenizer: WorldTokenizer) -> None:
    plain = {c["index"]: c["perplexity"] for c in chooses(server, input=INPUT, choices=CHOICES)}
    data = chooses(server, input=INPUT, choices=CHOICES, calibrate=True)
    assert data[3]["perplexity"] is None
    for choice in data[:3]:
        text = CHOICES[choice["index"]]
        count = len(tokenizer.encode(text))
        alone = mean_loss(client, tokenizer, [0], text) * count / (count + 1)
        assert choice["perplexity"] == pytest.approx(plain[choice["index"]] - alone, abs=1e-4)


def test_no_choices_no_ranks(server: LiveServer) -> None:
    assert chooses(server, input="x", choices=[]) == []
    assert chooses(server, input="x") == []
    assert chooses(server, input="x", choices=None) == []


@pytest.mark.parametrize("state", [None, "", "none", "00000000-0000-0000-0000-000000000000"])
def test_states_that_mean_the_default(server: LiveServer, state: str | None) -> None:
    body = {"input": "x", "choices": ["wing", "beat"]}
    assert chooses(server, state=state, **body) == chooses(server, **body)


def test_choices_after_a_kept_state(server: LiveServer) -> None:
    kept = server.http.post("/v1/completions", json={"prompt": INPUT, "max_tokens": 1, "return_state": True}).json()
    choice = kept["choices"][0]
    for path in PATHS:
        data = chooses(server, path, input=" and", choices=["wing"], state=choice["state"])
        whole = chooses(server, path, input=INPUT + choice["text"] + " and", choices=["wing"])
        assert data[0]["perplexity"] == pytest.approx(whole[0]["perplexity"], abs=0.5)
        assert data != chooses(server, path, input=" and", choices=["wing"])


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": 5, "choices": ["x"]}, "input"),
        ({"input": ["a", 5], "choices": ["x"]}, "input"),
        ({"input": "a", "choices": "x"}, "choices"),
        ({"input": "a", "choices": [1]}, "choices[0]"),
        ({"input": "a", "choices": ["x"] * 4097}, "choices"),
        ({"input": "a", "choices": ["x"], "calibrate": "yes"}, "calibrate"),
    ],
)
@pytest.mark.parametrize("path", [PATHS[0], PATHS[2]])
def test_what_is_refused(server: LiveServer, path: str, body: dict[str, Any], param: str) -> None:
    reply = server.http.post(path, json=body)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, param)
    assert ("brief" in error) == path.startswith("/api/")


def test_names_of_models_and_states(server: LiveServer) -> None:
    body = {"input": "a", "choices": ["x"]}
    assert server.http.post("/v1/chooses", json={**body, "model": "another"}).status_code == 404
    assert server.http.post("/api/oai/chooses", json={**body, "model": "another"}).status_code == 200
    assert server.http.post("/api/oai/chooses", json={**body, "state": "nobody's"}).status_code == 404


@pytest.mark.parametrize("calibrate", [False, True])
def test_the_input_counts_once(
    server: LiveServer, tokenizer: WorldTokenizer, monkeypatch: pytest.MonkeyPatch, calibrate: bool
) -> None:
    """Choices are scored some at a time where each of them beside its context would be too much, to the same bits."""
    choices = [f" wing{number}" for number in range(20)]
    asked = {"input": INPUT, "choices": choices, "calibrate": calibrate}
    want = chooses(server, **asked)
    assert [choice["choice"] for choice in want] == [choices[choice["index"]] for choice in want]
    tokens = len(tokenizer.encode(INPUT)) + sum(len(tokenizer.encode(choice)) for choice in choices)
    model = server.registry.models[0]
    monkeypatch.setattr(model, "max_prompt_tokens", 2 * tokens if calibrate else tokens)
    assert chooses(server, **asked) == want
    monkeypatch.setattr(model, "max_prompt_tokens", tokens - 1)
    reply = server.http.post(PATHS[0], json={**asked, "calibrate": False})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "context_length_exceeded")

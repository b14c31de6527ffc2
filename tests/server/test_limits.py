"""Limits of a key: the budgets by themselves, and over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.live import LiveServer, live_server, settings_for
from wingbeat.config import KeySettings
from wingbeat.engine.generation import Generation
from wingbeat.engine.messages import FinishReason, GenerationRequest, Row, RowOutput
from wingbeat.sampling.params import SamplingParams
from wingbeat.server.errors import ApiError
from wingbeat.server.limits import Allowance, Limits

COMPLETIONS = "/v1/completions"


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def allowance(clock: Clock, requests: int = 0, tokens: int = 0, running: int = 0) -> Allowance:
    return Allowance(Limits(requests, tokens, running), clock)


def begun(budget: Allowance, prompt: int, rows: int = 1) -> Generation:
    """A generation that was admitted and charged."""
    budget.admit(prompt, rows, "n")
    request = GenerationRequest(fingerprint="", prompts=[[1]], rows=[Row(0)] * rows, sampling=SamplingParams())
    generation = Generation(request, lambda generation: generation.end("cancelled"))
    budget.begin(generation, prompt)
    return generation


def generate(generation: Generation, tokens: int, reason: FinishReason | None = None) -> None:
    generation.feed([RowOutput(0, 0, token_ids=[7] * tokens, finish_reason=reason)])


def shown(budget: Allowance) -> dict[str, str]:
    return {name.decode().removeprefix("x-ratelimit-"): value.decode() for name, value in budget.headers()}


def test_requests_refill_steadily_and_the_wait_is_exact() -> None:
    clock = Clock()
    budget = allowance(clock, requests=30)
    for _ in range(30):
        budget.admit_request()
    with pytest.raises(ApiError) as refused:
        budget.admit_request()
    assert (refused.value.status, refused.value.code) == (429, "rate_limit_exceeded")
    assert refused.value.headers == {"Retry-After": "2", "Retry-After-Ms": "2000"}
    clock.now += 1.5
    with pytest.raises(ApiError) as refused:
        budget.admit_request()  # what was refused took nothing
    assert refused.value.headers == {"Retry-After": "1", "Retry-After-Ms": "500"}
    clock.now += 0.5
    budget.admit_request()
    clock.now += 3600
    assert shown(budget) == {"limit-requests": "30", "remaining-requests": "30", "reset-requests": "0ms"}


def test_tokens_are_charged_as_they_are_used() -> None:
    clock = Clock()
    budget = allowance(clock, tokens=600)
    first = begun(budget, 100)
    assert shown(budget) == {"limit-tokens": "600", "remaining-tokens": "500", "reset-tokens": "10s"}
    generate(first, 30)
    assert shown(budget)["remaining-tokens"] == "470"
    generate(first, 40)
    first.cancel()
    budget.end(first)
    assert shown(budget)["remaining-tokens"] == "430"
    second = begun(budget, 430)
    generate(second, 120, "stop")
    budget.end(second)
    assert shown(budget) == {"limit-tokens": "600", "remaining-tokens": "0", "reset-tokens": "1m12s"}
    with pytest.raises(ApiError) as refused:
        budget.admit(50, 1, "n")
    assert refused.value.headers["Retry-After"] == "17"  # 120 of debt and 50 to use, at ten a second
    clock.now += 17
    budget.admit(50, 1, "n")


def test_a_prompt_longer_than_the_budget_begins_when_that_is_full() -> None:
    clock = Clock()
    budget = allowance(clock, tokens=60)
    budget.end(begun(budget, 1))
    with pytest.raises(ApiError):
        budget.admit(1000, 1, "n")
    clock.now += 1
    budget.end(begun(budget, 1000))
    with pytest.raises(ApiError) as refused:
        budget.admit(1, 1, "n")
    assert refused.value.headers["Retry-After"] == "941"


@pytest.mark.parametrize(
    ("tokens", "reason", "left"), [(0, "error", "100"), (1, "error", "89"), (0, "cancelled", "90"), (0, "length", "90")]
)
def test_only_what_failed_before_its_first_token_is_free(tokens: int, reason: FinishReason, left: str) -> None:
    budget = allowance(Clock(), tokens=100)
    generation = begun(budget, 10)
    generate(generation, tokens, reason)
    budget.end(generation)
    assert shown(budget)["remaining-tokens"] == left


def test_sequences_count_until_they_end() -> None:
    budget = allowance(Clock(), running=3)
    first = begun(budget, 1, rows=2)
    begun(budget, 1)
    with pytest.raises(ApiError) as refused:
        budget.admit(1, 1, "n")
    assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "1")
    generate(first, 1, "stop")  # one of two rows
    budget.admit(1, 1, "n")
    with pytest.raises(ApiError) as refused:
        budget.admit(1, 4, "input")
    assert (refused.value.status, refused.value.param) == (400, "input")


def test_a_key_overrides_the_limits_for_all() -> None:
    own = KeySettings(name="a", key="k", requests_per_minute=0, max_running=5).model_dump()
    assert Limits(10, 20, 30).overridden(own) == Limits(0, 20, 5)


# --- over HTTP


@pytest.fixture(scope="module")
def server(model_path: Path) -> Iterator[LiveServer]:
    keys = [
        KeySettings(name="few", key="few", requests_per_minute=2),
        KeySettings(name="short", key="short", tokens_per_minute=10),
        KeySettings(name="streaming", key="streaming", tokens_per_minute=10),
        KeySettings(name="narrow", key="narrow", max_running=2),
        KeySettings(name="free", key="free", requests_per_minute=0),
    ]
    settings = settings_for(model_path, keys=keys, api_keys=["plain"], key_requests_per_minute=1000)
    with live_server(settings) as live:
        yield live


def post(server: LiveServer, key: str, **body: Any) -> httpx.Response:
    fields = {"prompt": "the ", "max_tokens": 4, "ignore_eos": True, **body}
    return server.http.post(COMPLETIONS, json=fields, headers={"authorization": f"Bearer {key}"})


def refused(reply: httpx.Response) -> httpx.Response:
    assert reply.status_code == 429, reply.text
    assert (reply.json()["error"]["code"], reply.json()["error"]["type"]) == ("rate_limit_exceeded", "rate_limit_error")
    return reply


def test_requests_of_one_key(server: LiveServer) -> None:
    first, second = post(server, "few"), post(server, "few", temperature=-1)
    assert (first.status_code, second.status_code) == (200, 400)
    assert (first.headers["x-ratelimit-limit-requests"], first.headers["x-ratelimit-remaining-requests"]) == ("2", "1")
    assert second.headers["x-ratelimit-remaining-requests"] == "0"  # a mistake counts too
    third = refused(post(server, "few"))
    assert 25 <= int(third.headers["retry-after"]) <= 30
    assert third.headers["x-ratelimit-remaining-requests"] == "0"
    reads = server.http.get("/v1/models", headers={"authorization": "Bearer few"})
    assert (reads.status_code, "x-ratelimit-limit-requests" in reads.headers) == (200, False)
    assert server.http.get("/health").status_code == 200
    assert post(server, "plain").headers["x-ratelimit-limit-requests"] == "1000"
    assert [name for name in post(server, "free").headers if name.startswith("x-ratelimit")] == []


@pytest.mark.parametrize("stream", [True, False])
def test_tokens_of_one_key(server: LiveServer, stream: bool) -> None:
    key = "streaming" if stream else "short"
    assert post(server, key, max_tokens=20, stream=stream).status_code == 200
    over = refused(post(server, key, stream=stream))
    assert 60 <= int(over.headers["retry-after"]) <= 72  # 21 used of 10 and one needed, at one in six seconds
    assert over.headers["x-ratelimit-remaining-tokens"] == "0"
    assert "tokens a minute" in over.json()["error"]["message"]


def test_sequences_of_one_key(server: LiveServer) -> None:
    headers = {"authorization": "Bearer narrow"}
    body = {"prompt": "the ", "max_tokens": 1_000_000, "ignore_eos": True, "stream": True, "n": 2}
    with server.http.stream("POST", COMPLETIONS, json=body, headers=headers) as reply:
        lines = reply.iter_lines()
        next(lines)
        with httpx.Client(base_url=server.url) as other:
            short = {"prompt": "the ", "max_tokens": 1}
            assert refused(other.post(COMPLETIONS, json=short, headers=headers)).headers["retry-after"] == "1"
            assert other.post(COMPLETIONS, json={**short, "n": 3}, headers=headers).status_code == 400
            assert post(server, "plain").status_code == 200
    server.wait_idle()
    assert post(server, "narrow", n=2).status_code == 200  # nothing leaked


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (COMPLETIONS, {"prompt": "x", "n": 3}, "n"),
        (COMPLETIONS, {"prompt": ["x", "y", "z"]}, "prompt"),
        ("/v1/embeddings", {"input": ["x", "y", "z"]}, "input"),
        ("/v1/chooses", {"input": "x", "choices": ["a", "b", "c"]}, "choices"),
    ],
)
def test_a_request_for_too_many_sequences_names_their_field(
    server: LiveServer, path: str, body: dict[str, Any], param: str
) -> None:
    reply = server.http.post(path, json=body, headers={"authorization": "Bearer narrow"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    assert "3 sequences" in reply.json()["error"]["message"]


def test_without_keys_everybody_shares_the_limits(model_path: Path) -> None:
    with live_server(settings_for(model_path, key_requests_per_minute=1)) as live:
        body = {"prompt": "x", "max_tokens": 1}
        assert live.http.post(COMPLETIONS, json=body).status_code == 200
        refused(live.http.post(COMPLETIONS, json=body))
        for path in ("/health", "/metrics", "/stats", "/v1/models"):
            assert live.http.get(path).status_code == 200

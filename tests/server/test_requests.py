"""Bad requests, over raw HTTP: status, OpenAI's error object, the field at fault."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.live import VOCAB, LiveServer
from wingbeat.engine.client import QueueFull
from wingbeat.server.dialects.openai_chat_schema import ChatBody
from wingbeat.server.dialects.openai_completions_schema import CompletionBody

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]


def post(server: LiveServer, path: str, body: Any) -> httpx.Response:
    return server.http.post(path, json=body)


def check_error(reply: httpx.Response, status: int, param: str | None = None, code: str | None = None) -> str:
    assert reply.status_code == status, reply.text
    assert list(reply.json()) == ["error"]
    error = reply.json()["error"]
    assert sorted(error) == ["code", "message", "param", "type"]
    assert error["param"] == param
    assert code is None or error["code"] == code
    return error["message"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 2.1),
        ("temperature", -0.1),
        ("temperature", "0.5"),
        ("temperature", [1]),
        ("top_p", 1.5),
        ("presence_penalty", -3),
        ("frequency_penalty", 2.5),
        ("n", 0),
        ("n", 129),
        ("n", 1.5),
        ("n", True),
        ("seed", 2**63),
        ("seed", "x"),
        ("stop", 5),
        ("stop", ["x", 5]),
        ("stop", "x" * 1001),
        ("stop", ["x"] * 17),
        ("stream", "yes"),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {str(VOCAB): 1}),
        ("logit_bias", {"9" * 5000: 1}),
        ("logit_bias", [1]),
        ("top_k", -2),
        ("min_p", 2),
        ("repetition_penalty", 0),
        ("stop_token_ids", [VOCAB]),
        ("stop_token_ids", [-1]),
        ("max_tokens", -2),
        ("max_tokens", 1.5),
        ("top_k", 0.5),
        ("guided_json", {"type": "nothing"}),
        ("guided_regex", "(a"),
        ("guided_choice", ["a", 5]),
        ("guided_grammar", "root"),
        ("structured_outputs", ["json"]),
        ("grammar", "root"),
        ("json_schema", ["object"]),
        ("prompt_logprobs", 21),
        ("prompt_logprobs", -1),
        ("prompt_logprobs", True),
        ("max_tokens", "3"),
        ("max_tokens", 10**30),
        ("model", 7),
        ("stream_options", True),
    ],
)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_bad_field_is_named(server: LiveServer, path: str, field: str, value: Any) -> None:
    body = {"messages": HELLO, "prompt": "x", "max_tokens": 1, field: value}
    assert field in check_error(post(server, path, body), 400, field)


def test_a_bias_outside_its_range_is_refused(server: LiveServer) -> None:
    check_error(post(server, COMPLETIONS, {"prompt": "x", "logit_bias": {"5": 101}}), 400, "logit_bias[5]")


@pytest.mark.parametrize("prompt", [5, {}, [], [[]], [1, "a"], [["a"]], [[1], []], [1.5], [True], ["a", [1]]])
def test_bad_prompt(server: LiveServer, prompt: Any) -> None:
    check_error(post(server, COMPLETIONS, {"prompt": prompt}), 400, "prompt")


@pytest.mark.parametrize("prompt", [[VOCAB], [-1], [[1], [2**70]]])
def test_prompt_tokens_outside_the_vocabulary(server: LiveServer, prompt: Any) -> None:
    check_error(post(server, COMPLETIONS, {"prompt": prompt}), 400, "prompt")


@pytest.mark.parametrize("stop", ["", [""], [None], ["", None, "beat"], [], "x" * 1000])
def test_empty_stops_are_dropped(server: LiveServer, stop: Any) -> None:
    assert post(server, COMPLETIONS, {"prompt": "x", "max_tokens": 2, "stop": stop}).status_code == 200


def test_missing_prompt_and_messages(server: LiveServer) -> None:
    check_error(post(server, COMPLETIONS, {}), 400, "prompt", "missing_required_parameter")
    check_error(post(server, CHAT, {}), 400, "messages", "missing_required_parameter")


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ("hello", "messages"),
        (["hello"], "messages[0]"),
        ([{"content": "x"}], "messages[0].role"),
        ([{"role": "robot", "content": "x"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "tool", "content": None}], "messages[0].content"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content"),
        ([{"role": "user", "content": ["x"]}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "refusal", "refusal": "No."}]}], "messages[0].content"),
        ([*HELLO, {"role": "assistant", "tool_calls": [{"id": "1"}]}], "messages[1].tool_calls"),
    ],
)
def test_bad_messages(server: LiveServer, messages: Any, param: str) -> None:
    check_error(post(server, CHAT, {"messages": messages}), 400, param)


@pytest.mark.parametrize(
    ("path", "field", "extra"),
    [
        (COMPLETIONS, "suffix", {"suffix": "end"}),
        (COMPLETIONS, "best_of", {"best_of": 1, "n": 2}),
        (COMPLETIONS, "best_of", {"best_of": 2, "stream": True}),
        (COMPLETIONS, "logprobs", {"logprobs": 21}),
        (CHAT, "response_format", {"response_format": {"type": "xml"}}),
        (CHAT, "tools[0].function", {"tools": [{"type": "function"}]}),
        (CHAT, "functions[0].name", {"functions": [{"name": "a b"}]}),
        (CHAT, "top_logprobs", {"top_logprobs": 2}),
        (CHAT, "continue_final_message", {"continue_final_message": True}),
        (CHAT, "add_generation_prompt", {"add_generation_prompt": False}),
        (COMPLETIONS, "logprobs", {"logprobs": True}),
        (CHAT, "top_logprobs", {"logprobs": True, "top_logprobs": 21}),
        (CHAT, "max_tokens", {"max_tokens": 0}),
        (CHAT, "max_completion_tokens", {"max_completion_tokens": 0}),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_reason(
    server: LiveServer, path: str, field: str, extra: dict[str, Any]
) -> None:
    check_error(post(server, path, {"messages": HELLO, "prompt": "x", **extra}), 400, field)


def test_null_unknown_and_harmless_fields_are_ignored(server: LiveServer) -> None:
    sampling = ["temperature", "top_p", "seed", "logit_bias", "presence_penalty", "frequency_penalty"]
    names = [*sampling, "n", "stop", "stream", "stream_options", "model", "top_k", "min_p", "repetition_penalty"]
    nulls = dict.fromkeys([*names, "stop_token_ids", "ignore_eos"])
    extra = {"user": "me", "metadata": {"a": "b"}, "no_such_field": [[]], "store": True}
    chat = {
        "tools": [],
        "functions": [],
        "response_format": {"type": "text"},
        "reasoning_effort": "low",
        "logprobs": None,
    }
    reply = post(server, CHAT, {"messages": HELLO, "max_completion_tokens": 2, **nulls, **extra, **chat})
    assert reply.status_code == 200, reply.text
    kept = {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"}
    assert post(server, CHAT, {"messages": HELLO, "max_tokens": 2, **kept}).status_code == 200
    plain = {"suffix": None, "best_of": None, "echo": None, "logprobs": None}
    assert post(server, COMPLETIONS, {"prompt": "x", **nulls, **extra, **plain}).status_code == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 2.0, "n": 1.0, "top_k": 40.0, "seed": 1.0, "stop_token_ids": [7.0]},
        {"model": ""},
        {"guided_json": None, "grammar": "", "guided_choice": [], "min_tokens": 0, "prompt_logprobs": False},
    ],
)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_other_ways_to_say_a_number_or_nothing(server: LiveServer, path: str, fields: dict[str, Any]) -> None:
    reply = post(server, path, {"messages": HELLO, "prompt": "x", "max_tokens": 2, **fields})
    assert reply.status_code == 200, reply.text


@pytest.mark.parametrize("prompt", [[7.0, 8], [[7], [8.0]]])
def test_token_ids_may_be_written_with_a_point(server: LiveServer, prompt: Any) -> None:
    reply = post(server, COMPLETIONS, {"prompt": prompt, "max_tokens": 1})
    assert reply.json()["usage"]["prompt_tokens"] == 2


def test_false_logprobs_are_none(server: LiveServer) -> None:
    assert post(server, COMPLETIONS, {"prompt": "x", "logprobs": False}).json()["choices"][0]["logprobs"] is None
    body = {"messages": HELLO, "max_tokens": 2, "logprobs": False, "top_logprobs": 0}
    assert post(server, CHAT, body).json()["choices"][0]["logprobs"] is None


def test_minus_one_stands_for_a_random_seed_and_no_limit() -> None:
    body = {"prompt": "x", "messages": HELLO, "seed": -1, "max_tokens": -1, "max_completion_tokens": -1.0}
    for model in (ChatBody, CompletionBody):
        parsed = model.model_validate_json(json.dumps(body))
        assert (parsed.seed, parsed.token_limit) == (None, None)
    assert CompletionBody.model_validate({"prompt": "x"}).token_limit == 16


def test_messages_of_other_clients(server: LiveServer) -> None:
    messages = [
        *HELLO,
        {"role": "assistant", "content": None},
        {"role": "function", "name": "f", "content": "5"},
        {"role": "function", "name": "f", "content": None},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        *HELLO,
    ]
    assert post(server, CHAT, {"messages": messages, "max_tokens": 2}).status_code == 200


def test_continuing_the_final_message(server: LiveServer) -> None:
    def tokens(**fields: Any) -> int:
        messages = [*HELLO, {"role": "assistant", "content": "wing"}]
        reply = post(server, CHAT, {"messages": messages, "max_tokens": 2, **fields})
        assert reply.status_code == 200, reply.text
        return reply.json()["usage"]["prompt_tokens"]

    tokenizer = server.registry.models[0].tokenizer
    assert tokenizer is not None
    expected = tokenizer.encode_segments(["User:", " hello", "\n\n", "Assistant:", " wing"])
    assert tokens(continue_final_message=True) == len(expected)
    assert tokens(continue_final_message=True, add_generation_prompt=False) == len(expected)
    assert tokens() == tokens(add_generation_prompt=True) > len(expected)
    both = {"continue_final_message": True, "add_generation_prompt": True, "messages": HELLO}
    check_error(post(server, CHAT, both), 400, "continue_final_message")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("temperature", 3, "temperature: must be at most 2."),
        ("top_k", -5, "top_k: must be at least -1."),
        ("messages", [], "messages: must have at least 1 entry."),
        ("n", "x", "n: must be an integer."),
        ("stream_options", 1, "stream_options: must be an object."),
        ("stop_token_ids", 1, "stop_token_ids: must be an array."),
    ],
)
def test_messages_of_errors_are_plain(server: LiveServer, field: str, value: Any, message: str) -> None:
    reply = post(server, CHAT, {"messages": HELLO, field: value})
    assert check_error(reply, 400, field, "invalid_value") == message


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[1]", b"null", b'"x"', b'{"prompt": "\\ud800"}', b'{"prompt": NaN}', b"\xff", b'{"prompt": "\xff"}'],
)
def test_bodies_that_are_no_json_object(server: LiveServer, raw: bytes) -> None:
    reply = server.http.post(COMPLETIONS, content=raw, headers={"content-type": "application/json"})
    assert reply.status_code == 400
    assert reply.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("raw", [b"[" * 200_000, b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"])
def test_deep_nesting_is_refused(server: LiveServer, raw: bytes) -> None:
    check_error(server.http.post(COMPLETIONS, content=raw), 400)


def test_not_a_number_is_refused(server: LiveServer) -> None:
    raw = b'{"prompt": "x", "temperature": NaN}'
    assert server.http.post(COMPLETIONS, content=raw).status_code == 400


def test_the_content_type_does_not_matter(server: LiveServer) -> None:
    reply = server.http.post(
        COMPLETIONS,
        content=b'{"prompt": "x", "max_tokens": 1}',
        headers={"content-type": "application/x-www-form-urlencoded"},
    )
    assert reply.status_code == 200


def test_model_names(server: LiveServer) -> None:
    for name in ("tiny", "model", "RWKV-x070-World", "rwkv", None):
        reply = post(server, COMPLETIONS, {"prompt": "x", "max_tokens": 1, "model": name})
        assert reply.status_code == 200
        assert reply.json()["model"] == "tiny"
    message = check_error(post(server, COMPLETIONS, {"prompt": "x", "model": "gpt-4"}), 404, "model", "model_not_found")
    assert "tiny" in message
    check_error(server.http.get("/v1/models/a/b"), 404, "model", "model_not_found")


def test_unknown_paths_and_methods(server: LiveServer) -> None:
    check_error(server.http.get("/v1/nothing"), 404, code="unknown_url")
    reply = server.http.get(COMPLETIONS)
    check_error(reply, 405, code="method_not_allowed")
    assert reply.headers["allow"] == "OPTIONS, POST"


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/chat/completions", True),
        ("/responses", True),
        ("/v1/v1/completions", True),
        ("/openai/models/tiny", True),
        ("/v1/completions/x", False),
        ("/modelsx", False),
    ],
)
def test_a_base_url_without_its_end_is_noticed(server: LiveServer, path: str, hint: bool) -> None:
    assert ("must end in /v1" in check_error(post(server, path, {}), 404, code="unknown_url")) == hint


@pytest.mark.parametrize("prefix", ["/v1", "/openai/v1"])
@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("images/generations", "images"),
        ("audio/speech", "audio"),
        ("moderations", "moderation"),
        ("files", "files"),
        ("batches", "batches"),
        ("fine_tuning/jobs", "fine-tuning"),
    ],
)
def test_what_is_not_offered_is_called_by_its_name(server: LiveServer, prefix: str, path: str, what: str) -> None:
    for method in ("GET", "POST"):
        reply = server.http.request(method, f"{prefix}/{path}")
        assert f"does not offer {what}" in check_error(reply, 404, code="unknown_url")


def test_a_long_path_is_not_repeated(server: LiveServer) -> None:
    assert len(check_error(server.http.get("/v1/" + "x" * 5000), 404)) < 500


@pytest.mark.parametrize("path", ["/", "/docs", "/health", "/v1/models", "/v1/models/tiny", "/tokenizer_info"])
def test_head_is_get_without_a_body(server: LiveServer, path: str) -> None:
    whole, head = server.http.get(path), server.http.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == whole.headers["content-type"]
    assert server.http.get("/v1/models").status_code == 200  # the connection is in order


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/models", "GET, HEAD, OPTIONS"),
        (CHAT, "GET, HEAD, OPTIONS, POST"),  # by two routes
        ("/tokenize", "OPTIONS, POST"),
        ("/docs/assets/swagger-ui.css", "GET, HEAD, OPTIONS"),
    ],
)
def test_options_name_the_methods(server: LiveServer, path: str, allowed: str) -> None:
    reply = server.http.options(path)
    assert (reply.status_code, reply.content, reply.headers["allow"]) == (204, b"", allowed)
    check_error(server.http.options("/nothing"), 404)


def test_full_queue(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(request: object) -> None:
        raise QueueFull(9, 2.4)

    monkeypatch.setattr(server.registry.models[0].client, "submit", full)
    for stream in (False, True):
        reply = post(server, COMPLETIONS, {"prompt": "x", "stream": stream})
        check_error(reply, 429, code="queue_full")
        assert reply.json()["error"]["type"] == "rate_limit_error"
        assert reply.headers["retry-after"] == "2"


def test_too_many_choices(server: LiveServer) -> None:
    check_error(post(server, COMPLETIONS, {"prompt": ["x"] * 1000, "n": 128}), 400, "prompt")


def test_too_long_prompts(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.registry.models[0], "max_prompt_tokens", 20)
    ids = [5] * 10
    for prompt, n, status in (
        ("x" * 20, 1, 200),
        ("x" * 21, 1, 400),
        (ids, 2, 200),
        (ids, 3, 400),
        ([ids, ids], 1, 200),
        ([ids, ids, ids], 1, 400),
        (["x" * 10, "x" * 11], 1, 400),
    ):
        reply = post(server, COMPLETIONS, {"prompt": prompt, "n": n, "max_tokens": 1})
        assert reply.status_code == status, reply.text
        if status == 400:
            assert "20" in check_error(reply, 400, "prompt", "context_length_exceeded")
    long = [{"role": "user", "content": "x" * 21}]
    check_error(post(server, CHAT, {"messages": long}), 400, "messages", "context_length_exceeded")


def test_a_defect_is_a_500_that_tells_no_details(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(request: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(server.registry.models[0].client, "submit", broken)
    assert "secret" not in check_error(post(server, COMPLETIONS, {"prompt": "x"}), 500, code="internal_error")


def test_a_long_prompt_is_read_in_a_thread_and_answered(server: LiveServer) -> None:
    text = "the wingbeat " * 20_000
    reply = post(server, COMPLETIONS, {"prompt": text, "max_tokens": 0})
    assert reply.status_code == 200
    tokens = server.registry.models[0].tokenizer.encode(text)  # type: ignore[union-attr]
    assert reply.json()["usage"]["prompt_tokens"] == len(tokens)

"""Every parameter that the `openai` package can send: honoured, ignored or refused by its name, and so documented."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pytest
from openai import OpenAI

KNOWN_VERSION = "3.54"
OF_THE_CLIENT = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}

HELLO: Any = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "f"}}
LONG = "x" * 600


class Parameter(NamedTuple):
    """What is done with a parameter, values that are taken, and values that are refused by its name."""

    kind: str
    good: list[Any]
    bad: list[Any]


def honoured(good: list[Any], bad: list[Any]) -> Parameter:
    return Parameter("honoured", good, bad)


def ignored(good: list[Any], bad: list[Any]) -> Parameter:
    return Parameter("ignored", good, bad)


def refused(bad: list[Any], good: list[Any] | None = None) -> Parameter:
    return Parameter("refused", good or [], bad)


BOTH = {
    "frequency_penalty": honoured([-2, 0.5], [2.1, "1"]),
    "logit_bias": honoured([{"5": 1}, {}], [{"x": 1}, {"5": 101}, [5], {"5": "1"}]),
    "max_tokens": honoured([1, 3], [-2, "3"]),
    "model": honoured(["tiny", "rwkv-7", "model"], [5, ["tiny"]]),
    "n": honoured([1, 3], [0, 129, "1"]),
    "presence_penalty": honoured([-2, 2], [-2.1, {}]),
    "seed": honoured([0, -5, 2**63 - 1], [2**63, "1", 0.5]),
    "stop": honoured(["a", ["a", "b"], []], [5, [5], ["a"] * 17]),
    "stream": honoured([False], ["yes", 1]),
    "stream_options": honoured([], [True, {"include_usage": 5}, {"include_usage": True}]),  # without a stream
    "temperature": honoured([0, 2], [2.1, -1, "1"]),
    "top_p": honoured([0, 1, 0.5], [1.1, "1"]),
    "user": ignored(["me", ""], [5, {}]),
}

COMPLETIONS = {
    **BOTH,
    "best_of": honoured([1, 2], [0, 129, "2"]),
    "echo": honoured([True, False], ["yes"]),
    "logprobs": honoured([0, 20], [21, -1, "1"]),
    "prompt": honoured(["x", ["x", "y"], [5], [[5], [6, 7]], "", None], [5, [], [[]], {"a": 1}]),
    "suffix": refused(["end", 5], good=[""]),
}

CHAT = {
    **BOTH,
    "audio": refused([{"voice": "alloy", "format": "wav"}, True]),
    "function_call": honoured(["none", "auto"], ["required", {"name": "f"}, 5]),
    "functions": honoured([[], [{"name": "f"}]], ["f", [{"name": "a b"}], [{}]]),
    "logprobs": honoured([True, False], [3, "yes"]),
    "max_completion_tokens": honoured([1, 3], [0, "3"]),
    "messages": honoured(
        [HELLO, [{"role": "developer", "content": [{"type": "text", "text": "Be kind."}]}, *HELLO]],
        [[], "hello", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]],
    ),
    "metadata": ignored(
        [{}, {"a": "b"}],
        ["a", ["a"], {"a": 1}, {"a": None}, {LONG: "b"}, {"a": LONG}, {str(i): "" for i in range(17)}],
    ),
    "modalities": refused([["audio"], ["text", "audio"], "text", ["video"]], good=[["text"]]),
    "moderation": refused([{"model": "omni-moderation-latest"}]),
    "parallel_tool_calls": honoured([True, False], ["yes"]),
    "prediction": honoured([{"type": "content", "content": "x"}], ["x", {"type": "content"}, {"content": "x"}]),
    "prompt_cache_key": ignored(["k"], [5]),
    "prompt_cache_options": ignored([{"mode": "implicit", "ttl": "30m"}, {}], ["30m", {"mode": "never"}]),
    "prompt_cache_retention": ignored(["24h", "in_memory"], ["1h", 24]),
    "reasoning_effort": honoured(["none", "minimal", "low", "medium", "high", "xhigh", "max"], ["hard", 5]),
    "response_format": honoured(
        [
            {"type": "text"},
            {"type": "json_object"},
            {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "integer"}, "strict": True}},
        ],
        ["text", {"type": "xml"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {"name": "a b"}}],
    ),
    "safety_identifier": ignored(["a"], [5]),
    "service_tier": ignored(["auto", "default", "flex", "scale", "priority", "fast"], ["best", 5]),
    "store": ignored([True, False], ["yes"]),
    "tool_choice": honoured(["none", "auto"], ["required", {"type": "function", "function": {"name": "f"}}, 5]),
    "tools": honoured([[], [TOOL]], ["f", [{**TOOL, "type": "custom"}], [{"type": "function"}], [TOOL] * 2]),
    "top_logprobs": honoured([], [21, "1", 2]),  # without logprobs
    "verbosity": ignored(["low", "medium", "high"], ["loud"]),
    "web_search_options": refused([{}, {"search_context_size": "low"}]),
}

RESPONSES = {
    **{name: BOTH[name] for name in ("model", "stream", "temperature", "top_p")},
    **{name: CHAT[name] for name in ("metadata", "moderation", "parallel_tool_calls", "prompt_cache_key")},
    **{name: CHAT[name] for name in ("prompt_cache_retention", "safety_identifier", "store", "tool_choice")},
    "access_programs": ignored([{"cyber": "standard"}], []),
    "background": refused([True, "yes"], good=[False]),
    "background_options": ignored([{"completion_window": "soonest"}], []),
    "context_management": refused([[{"type": "compaction"}]], good=[[]]),
    "conversation": refused(["conv_1", {"id": "conv_1"}]),
    "image": ignored([{"context_compression": "auto"}], []),
    "include": honoured([[], ["message.output_text.logprobs", "reasoning.encrypted_content"]], [["all"], "all"]),
    "input": honoured(["x", HELLO, [{"type": "message", **HELLO[0]}]], [5, [], ["x"], {}]),
    "instructions": honoured(["Be kind.", ""], [5, HELLO]),
    "max_output_tokens": honoured([1, 3], [0, "3"]),
    "max_tool_calls": ignored([0, 3], [-1, "3"]),
    "previous_response_id": refused(["resp_1", ""]),
    "prompt": refused([{"id": "pmpt_1"}]),
    "prompt_cache_options": ignored(
        [{"mode": "explicit", "ttl": "12h", "comparison_response_id": "resp_1"}, {"prewarm": False}],
        ["30m", {"mode": "never"}, {"prewarm": True}],
    ),
    "reasoning": honoured(
        [{"effort": "low", "summary": "auto"}, {}],
        ["low", {"effort": "hard"}, {"context": "all_turns"}, {"mode": "pro"}],
    ),
    "service_tier": ignored(["auto", "flex"], [5]),
    "stream_options": ignored([], [True, {"include_obfuscation": 5}, {"include_obfuscation": True}]),  # see above
    "text": honoured(
        [{"format": {"type": "text"}, "verbosity": "low"}, {"format": {"type": "json_object"}}],
        [{"verbosity": "loud"}, "text", {"format": {"type": "json_schema"}}],
    ),
    "tools": honoured([[], [{"type": "function", "name": "f"}]], ["f", [{"type": "web_search"}], [TOOL]]),
    "top_logprobs": honoured([0, 20], [21, "1"]),
    "truncation": ignored(["auto", "disabled"], ["some"]),
    "user": BOTH["user"],
}

ENDPOINTS = {"chat": CHAT, "completions": COMPLETIONS, "responses": RESPONSES}
CASES = [(endpoint, name) for endpoint, table in ENDPOINTS.items() for name in table]


def send(client: OpenAI, endpoint: str, **values: Any) -> Any:
    if endpoint == "chat":
        return client.chat.completions.create(**{"model": "tiny", "messages": HELLO, "max_tokens": 2, **values})
    if endpoint == "responses":
        return client.responses.create(**{"model": "tiny", "input": "x", "max_output_tokens": 2, **values})
    return client.completions.create(**{"model": "tiny", "prompt": "x", "max_tokens": 2, **values})


def test_the_tables_are_complete(client: OpenAI) -> None:
    if not openai.__version__.startswith(KNOWN_VERSION + "."):
        pytest.skip(f"the tables are those of openai {KNOWN_VERSION}; see what {openai.__version__} brings")
    creates = (client.chat.completions.create, client.completions.create, client.responses.create)
    for create, table in zip(creates, ENDPOINTS.values(), strict=True):
        assert set(inspect.signature(create).parameters) - OF_THE_CLIENT == set(table)


@pytest.mark.parametrize(("endpoint", "name"), CASES)
def test_what_is_taken(client: OpenAI, endpoint: str, name: str) -> None:
    for value in ENDPOINTS[endpoint][name].good:
        assert send(client, endpoint, **{name: value}).usage.total_tokens > 0


@pytest.mark.parametrize(("endpoint", "name"), CASES)
def test_what_is_refused_by_its_name(client: OpenAI, endpoint: str, name: str) -> None:
    for value in ENDPOINTS[endpoint][name].bad:
        with pytest.raises(openai.BadRequestError) as caught:
            send(client, endpoint, **{name: value})
        assert re.match(rf"{name}\b", caught.value.param or ""), (value, caught.value)
        assert name in caught.value.message or "not supported yet" in caught.value.message
        assert caught.value.code in ("invalid_value", "unsupported_value", "missing_required_parameter")


@pytest.mark.parametrize(("endpoint", "name"), CASES)
def test_null_is_absent(client: OpenAI, endpoint: str, name: str) -> None:
    if name in ("messages", "input"):
        pytest.skip("nothing can stand for it")
    assert send(client, endpoint, **{name: None}).usage.total_tokens > 0


def test_what_is_ignored_changes_nothing(client: OpenAI) -> None:
    plain = send(client, "chat", seed=3, max_tokens=20)
    extra = {name: given.good[0] for name, given in CHAT.items() if given.kind == "ignored"}
    assert send(client, "chat", seed=3, max_tokens=20, **extra).choices == plain.choices


def test_streams_take_their_options(client: OpenAI) -> None:
    options = {"include_usage": True, "include_obfuscation": False}
    for endpoint in ("chat", "completions"):
        *_, last = send(client, endpoint, stream=True, stream_options=options, extra_body={"ignore_eos": True})
        assert last.usage.completion_tokens == 2


PARTS = {
    "image_url": {"image_url": {"url": "https://example.org/a.png"}},
    "input_audio": {"input_audio": {"data": "", "format": "wav"}},
    "file": {"file": {"file_id": "file-1"}},
    "refusal": {"refusal": "No."},
}


@pytest.mark.parametrize("kind", PARTS)
def test_parts_of_other_types_are_refused_by_their_name(client: OpenAI, kind: str) -> None:
    content = [{"type": "text", "text": "What is this?"}, {"type": kind, **PARTS[kind]}]
    with pytest.raises(openai.BadRequestError) as caught:
        send(client, "chat", messages=[{"role": "user", "content": content}])
    assert (caught.value.param, caught.value.code) == ("messages[0].content", "unsupported_value")
    assert f"messages[0].content: part 1: content of type '{kind}' is not supported" in caught.value.message


@pytest.mark.parametrize("field", ["tool_calls", "function_call", "audio"])
def test_earlier_turns_that_cannot_be_told_are_refused(client: OpenAI, field: str) -> None:
    given = {"tool_calls": [TOOL], "function_call": {"name": "f"}, "audio": {"id": "a"}}[field]
    messages = [*HELLO, {"role": "assistant", "content": None, field: given}]
    with pytest.raises(openai.BadRequestError) as caught:
        send(client, "chat", messages=messages)
    assert caught.value.param == f"messages[1].{field}"


def test_what_an_earlier_turn_may_have(client: OpenAI) -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "hello", "prompt_cache_breakpoint": {}}], "name": "me"},
        {"role": "assistant", "content": None, "refusal": "No.", "tool_calls": None, "audio": None},
        {"role": "tool", "content": "5", "tool_call_id": "1"},
    ]
    told = send(client, "chat", messages=messages, seed=1)
    same = [messages[0], {"role": "assistant", "content": "No."}, {"role": "tool", "content": "5"}]
    assert told.usage.prompt_tokens == send(client, "chat", messages=same, seed=1).usage.prompt_tokens


def test_the_document_says_the_same() -> None:
    text = (Path(__file__).parents[2] / "docs/api.md").read_text(encoding="utf-8")
    section = text.split("## Every parameter")[1].split("\n## ")[0]
    shown: dict[str, dict[str, str]] = {"chat": {}, "completions": {}}
    for names, chat, completions in re.findall(r"^\| (`[^|]+`) \| (\w*) ?\| (\w*) ?\|", section, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", names):
            shown["chat"].update({name: chat} if chat else {})
            shown["completions"].update({name: completions} if completions else {})
    assert shown == {endpoint: {name: given.kind for name, given in ENDPOINTS[endpoint].items()} for endpoint in shown}


def test_the_document_on_responses_names_all() -> None:
    text = (Path(__file__).parents[2] / "docs/responses.md").read_text(encoding="utf-8")
    assert [name for name in RESPONSES if f"`{name}`" not in text] == []

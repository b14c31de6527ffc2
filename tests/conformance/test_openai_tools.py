"""Tools through the `openai` package: its loop, its helpers, and arguments that always fit, whatever the weights."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import httpx
import jsonschema
import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel, Field

from tests.live import LiveServer
from wingbeat import calling
from wingbeat.text import tool_calls
from wingbeat.text.profile import PROFILES

ASK: Any = [{"role": "user", "content": "How is the weather in Paris?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 8}, "days": {"type": "integer", "maximum": 9}},
            "required": ["city"],
        },
    },
}
CLOCK: Any = {"type": "function", "function": {"name": "clock"}}
TOOLS = [WEATHER, CLOCK]
NAMED: Any = {"type": "function", "function": {"name": "clock"}}
BACKTICK, BRACKET = "97", "92"  # World's ids of bytes are one higher
ANY: dict[str, Any] = {"model": "tiny", "messages": ASK, "seed": 4, "max_tokens": 2000}


def fits(call: Any) -> bool:
    arguments = json.loads(call.function.arguments)
    if call.function.name == "clock":
        return arguments == {}
    jsonschema.validate(arguments, WEATHER["function"]["parameters"])
    return call.function.name == "get_weather" and arguments.keys() <= {"city", "days"}


def test_the_loop(client: OpenAI) -> None:
    messages = [*ASK]
    first = client.chat.completions.create(**{**ANY, "tools": TOOLS, "tool_choice": "required"}).choices[0]
    assert (first.finish_reason, first.message.content) == ("tool_calls", None)
    calls = first.message.tool_calls
    assert calls
    assert all(map(fits, calls))
    messages.append(first.message)
    messages += [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in calls]
    answer = client.chat.completions.create(**{**ANY, "messages": messages, "tools": TOOLS, "tool_choice": "none"})
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].message.content is not None


@pytest.mark.parametrize("seed", range(4))
def test_a_stream_says_the_same(client: OpenAI, seed: int) -> None:
    asked: dict[str, Any] = {**ANY, "seed": seed, "tools": TOOLS, "tool_choice": "required", "n": 2}
    whole = client.chat.completions.create(**asked)
    with client.chat.completions.stream(**asked) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"} <= kinds
    for told, wanted in zip(final.choices, whole.choices, strict=True):
        assert told.finish_reason == wanted.finish_reason == "tool_calls"
        calls, expected = told.message.tool_calls or [], wanted.message.tool_calls or []
        assert [(call.function.name, call.function.arguments) for call in calls] == [
            (call.function.name, call.function.arguments) for call in expected
        ]
        assert all(map(fits, calls))
    for chunk in client.chat.completions.create(**asked, stream=True):
        for call in chunk.choices[0].delta.tool_calls or []:
            begins = call.id is not None
            assert begins == (call.type == "function") == (call.function.name is not None)
            assert not begins or (call.id.startswith("call_") and call.function.arguments == "")


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"get_weather", "clock"}),
        (NAMED, {"clock"}),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}, {"clock"}),
    ],
)
def test_the_choice_is_kept(client: OpenAI, choice: Any, names: set[str]) -> None:
    called: set[str] = set()
    reply = client.chat.completions.create(**ANY, tools=TOOLS, tool_choice=choice, n=8, parallel_tool_calls=False)
    for each in reply.choices:
        assert len(each.message.tool_calls or []) == 1
        called |= {call.function.name for call in each.message.tool_calls or []}
    assert called == names


def test_several_calls(client: OpenAI) -> None:
    bracket = {BRACKET: 60}  # a list of calls begins with it
    reply = client.chat.completions.create(**ANY, tools=TOOLS, tool_choice="required", logit_bias=bracket, n=4)
    counts = [len(choice.message.tool_calls or []) for choice in reply.choices]
    assert max(counts) > 1
    for choice in reply.choices:
        calls = choice.message.tool_calls or []
        assert all(map(fits, calls))
        assert len({call.id for call in calls}) == len(calls)
    for once in ({"tool_choice": "required", "parallel_tool_calls": False}, {"tool_choice": NAMED}):
        one = client.chat.completions.create(**ANY, tools=TOOLS, logit_bias=bracket, n=4, **once)
        assert [len(choice.message.tool_calls or []) for choice in one.choices] == [1] * 4


def test_the_model_chooses(client: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes a text, where the format's stops count; a fence makes the rest a call."""
    plain = client.chat.completions.create(**{**ANY, "max_tokens": 20}, tools=TOOLS).choices[0]
    assert plain.finish_reason in ("stop", "length")
    assert plain.message.tool_calls is None
    for module in (calling, tool_calls):  # one that these weights can be made to write
        monkeypatch.setattr(module, "FENCE", "`")
    asked: dict[str, Any] = {**ANY, "tools": TOOLS, "logit_bias": {BACKTICK: 6}}
    choice = client.chat.completions.create(**asked).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls
    assert all(map(fits, choice.message.tool_calls))
    assert choice.message.content
    assert "`" not in choice.message.content
    with client.chat.completions.stream(**asked) as stream:
        for _ in stream:
            pass
        message = stream.get_final_completion().choices[0].message
    assert message.content == choice.message.content
    assert [call.function.arguments for call in message.tool_calls or []] == [
        call.function.arguments for call in choice.message.tool_calls
    ]


def test_a_form_and_tools(client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"x": {"enum": ["```json\n"]}}, "required": ["x"]}
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    reply = client.chat.completions.create(**ANY, tools=TOOLS, response_format=form, n=16)
    called = [choice for choice in reply.choices if choice.finish_reason == "tool_calls"]
    said = [choice for choice in reply.choices if choice.finish_reason == "stop"]
    assert called
    assert said
    assert [json.loads(choice.message.content or "") for choice in said] == [{"x": "```json\n"}] * len(said)
    assert all(fits(call) for choice in called for call in choice.message.tool_calls or [])


def test_the_older_form(client: OpenAI) -> None:
    functions = [tool["function"] for tool in TOOLS]
    asked: dict[str, Any] = {**ANY, "functions": functions, "function_call": {"name": "clock"}}
    choice = client.chat.completions.create(**asked).choices[0]
    assert choice.finish_reason == "function_call"
    call = choice.message.function_call
    assert call is not None
    assert (call.name, call.arguments) == ("clock", "{}")
    deltas = [chunk.choices[0].delta.function_call for chunk in client.chat.completions.create(**asked, stream=True)]
    assert "".join(delta.arguments or "" for delta in deltas if delta) == "{}"
    told = [*ASK, choice.message, {"role": "function", "name": "clock", "content": "noon"}]
    assert client.chat.completions.create(**{**ANY, "messages": told, "max_tokens": 2}).choices


class GetWeather(BaseModel):
    """Tells the weather."""

    city: str = Field(max_length=8)
    units: list[str] = Field(max_length=0)


def test_the_package_parses_arguments(client: OpenAI) -> None:
    tool = openai.pydantic_function_tool(GetWeather)
    asked: dict[str, Any] = {**ANY, "tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}
    (call,) = client.chat.completions.parse(**asked).choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, GetWeather)


def test_what_was_called_is_told_as_it_was_written(server: LiveServer) -> None:
    """A session takes the whole conversation when it has the text that the session holds."""
    asked = {"session_id": "calls", "tools": TOOLS, "tool_choice": "required", "seed": 1, "max_tokens": 2000}
    messages = [{"role": "system", "content": "Be brief."}, *ASK]
    for _ in range(3):
        reply = server.http.post("/v1/chat/completions", json={"messages": messages, **asked})
        assert reply.status_code == 200, reply.text
        message = reply.json()["choices"][0]["message"]
        result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "sunny"}
        messages += [message, result]
    server.http.delete("/v1/sessions/calls")


def test_the_words_about_tools_can_be_others(server: LiveServer) -> None:
    def tokens(**fields: Any) -> int:
        reply = server.http.post("/v1/chat/completions", json={"messages": ASK, "max_tokens": 1, **fields})
        return reply.json()["usage"]["prompt_tokens"]

    told = [{"role": "system", "content": 'Use [{"name": "clock", "parameters": {}}]!'}, *ASK]
    settings = {"chat_template_kwargs": {"tool_prompt": "Use {tools}!"}}
    assert tokens(tools=[CLOCK], **settings) == tokens(messages=told)
    assert tokens(tools=[CLOCK], tool_choice="none") == tokens()


def test_a_session_is_told_of_tools_once(server: LiveServer) -> None:
    asked = {"session_id": "tools", "tools": TOOLS, "seed": 1, "max_tokens": 400}
    first = server.http.post("/v1/chat/completions", json={"messages": ASK, "tool_choice": "required", **asked}).json()
    assert first["choices"][0]["finish_reason"] == "tool_calls"
    result = [{"role": "tool", "tool_call_id": "x", "content": "sunny"}]
    second = server.http.post("/v1/chat/completions", json={"messages": result, **asked, "max_tokens": 4}).json()
    added = second["usage"]["prompt_tokens"] - first["usage"]["prompt_tokens"] - first["usage"]["completion_tokens"]
    assert 0 < added < 60  # bytes, nearly; the tools are some hundreds
    server.http.delete("/v1/sessions/tools")


@pytest.mark.parametrize("effort", ["none", "high"])
def test_a_thinking_model_calls_after_its_reasoning(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, effort: str
) -> None:
    monkeypatch.setattr(server.registry.models[0], "_profile", PROFILES["g1"])
    body = {"messages": ASK, "tools": TOOLS, "tool_choice": "required", "reasoning_effort": effort}
    reply = server.http.post("/v1/chat/completions", json={**body, "seed": 2, "max_tokens": 900, "thinking_budget": 9})
    (choice,) = reply.json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert bool(choice["message"].get("reasoning_content")) == (effort == "high")


def test_what_is_thought_is_no_call(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.registry.models[0], "_profile", PROFILES["g1"])
    for module in (calling, tool_calls):
        monkeypatch.setattr(module, "FENCE", "`")
    body = {"messages": ASK, "tools": TOOLS, "reasoning_effort": "high", "thinking_budget": 40, "max_tokens": 2000}
    reply = server.http.post("/v1/chat/completions", json={**body, "seed": 2, "logit_bias": {BACKTICK: 6}})
    (choice,) = reply.json()["choices"]
    assert "`" in choice["message"]["reasoning_content"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"]


# --- what is refused


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"tools": [WEATHER, WEATHER]}, "tools", "tools[1]: there are several tools of the name 'get_weather'"),
        ({"tools": [{**CLOCK, "function": {"name": "a b"}}]}, "tools[0].function.name", "1 to 64 letters"),
        ({"tools": [{**CLOCK, "function": {}}]}, "tools[0].function.name", "required"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type", "only 'function'"),
        ({"tools": [CLOCK] * 129}, "tools", "at most 128"),
        ({"tools": TOOLS, "tool_choice": {**NAMED, "function": {"name": "f"}}}, "tool_choice", "'f' is none of"),
        ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "tool_choice", "a function's name"),
        ({"tools": TOOLS, "tool_choice": {"type": "custom"}}, "tool_choice", "'custom' is not supported"),
        ({"tools": TOOLS, "tool_choice": "some"}, "tool_choice", "'none', 'auto', 'required'"),
        ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools"}}, "tool_choice", "a mode"),
        ({"tool_choice": "required"}, "tool_choice", "no tools to choose from"),
        ({"functions": [CLOCK["function"]], "tools": TOOLS}, "functions", "exclude each other"),
        ({"function_call": {"name": "f"}}, "function_call", "no functions to choose from"),
        ({"chat_template_kwargs": {"tool_prompt": "x"}}, "chat_template_kwargs.tool_prompt", "{tools} is wanted"),
        ({"tools": TOOLS, "guided_regex": "a"}, "guided_regex", "only JSON goes together with tools"),
        (
            {"tools": [CLOCK, {**CLOCK, "function": {"name": "f", "parameters": {"type": "string"}}}]},
            "tools[1].function.parameters",
            "the schema of an object",
        ),
        (
            {"tools": [CLOCK, {**CLOCK, "function": {"name": "f", "parameters": {"type": "object", "not": {}}}}]},
            "tools[1].function.parameters",
            "not",
        ),
        ({"messages": [*ASK, {"role": "assistant", "tool_calls": [{}]}]}, "messages[1].tool_calls", "call 0"),
    ],
)
def test_what_is_wrong_is_told(server: LiveServer, fields: dict[str, Any], param: str, message: str) -> None:
    for stream in (False, True):
        reply = server.http.post("/v1/chat/completions", json={"messages": ASK, **fields, "stream": stream})
        error = reply.json()["error"]
        assert (reply.status_code, error["param"]) == (400, param)
        assert message in error["message"]


# --- any schema


def random_schema(rng: random.Random, depth: int = 2) -> dict[str, Any]:
    kinds = ["string", "integer", "number", "boolean", "enum", "null"] + ["object", "array"] * (depth > 0)
    match rng.choice(kinds):
        case "string":
            return {"type": "string", "minLength": rng.randrange(2), "maxLength": rng.randrange(2, 9)}
        case "integer":
            return {"type": "integer", "minimum": -rng.randrange(99), "maximum": rng.randrange(1, 999)}
        case "number":
            return {"type": "number", "minimum": 0, "maximum": rng.randrange(1, 99)}
        case "enum":
            return {"enum": rng.sample(["a", "b\n", '"', 5, None, True, "世界"], 3)}
        case "array":
            return {"type": "array", "items": random_schema(rng, depth - 1), "maxItems": rng.randrange(3)}
        case "object":
            names = rng.sample(["a", "b", "c-d", "é", "}"], rng.randrange(4))
            required = [name for name in names if rng.random() < 0.6]
            properties = {name: random_schema(rng, depth - 1) for name in names}
            return {"type": "object", "properties": properties, "required": required}
        case kind:
            return {"type": kind}


def random_tool(name: str, rng: random.Random) -> dict[str, Any]:
    properties = {f"p{place}": random_schema(rng) for place in range(rng.randrange(1, 4))}
    parameters = {"type": "object", "properties": properties, "required": list(properties)[:2]}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


async def test_arguments_fit_any_schema(server: LiveServer) -> None:
    rng = random.Random(7)
    wanted = [[random_tool("f", rng), random_tool("g", rng)] for _ in range(100)]
    few = asyncio.Semaphore(8)

    async def check(http: httpx.AsyncClient, tools: list[dict[str, Any]]) -> int:
        body = {"messages": ASK, "tools": tools, "tool_choice": "required", "max_tokens": 3000}
        async with few:
            reply = await http.post("/v1/chat/completions", json=body)
        assert reply.status_code == 200, reply.text
        (choice,) = reply.json()["choices"]
        assert choice["finish_reason"] == "tool_calls"
        schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
        for call in choice["message"]["tool_calls"]:
            jsonschema.validate(json.loads(call["function"]["arguments"]), schemas[call["function"]["name"]])
        return len(choice["message"]["tool_calls"])

    async with httpx.AsyncClient(base_url=server.url, timeout=120) as http:
        assert sum(await asyncio.gather(*(check(http, tools) for tools in wanted))) >= 100

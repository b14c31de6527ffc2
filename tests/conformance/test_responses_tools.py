"""Tools in the Responses API, through the `openai` package."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai import OpenAI
from openai.types.responses import ResponseFunctionToolCall

from tests.live import LiveServer

CITY = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
TOOLS: Any = [
    {"type": "function", "name": "get_weather", "parameters": CITY, "strict": True},
    {"type": "function", "name": "clock", "parameters": None, "strict": None},
]
ASKED: dict[str, Any] = {"model": "tiny", "tools": TOOLS, "max_output_tokens": 900, "extra_body": {"seed": 3}}
ASK: Any = {"role": "user", "content": "How is the weather?"}


def fits(call: Any) -> bool:
    arguments = json.loads(call.arguments)
    return arguments == {} if call.name == "clock" else arguments["city"] in ("Paris", "Rome") and len(arguments) == 1


def test_the_loop(client: OpenAI) -> None:
    first = client.responses.create(**ASKED, input=[ASK], tool_choice="required")
    assert first.status == "completed"
    calls = [item for item in first.output if isinstance(item, ResponseFunctionToolCall)]
    assert calls == first.output
    assert all(map(fits, calls))
    assert (first.tool_choice, [tool.name for tool in first.tools]) == ("required", ["get_weather", "clock"])  # type: ignore[union-attr]
    results: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "fine"} for call in calls]
    given: Any = [ASK, *first.output, *results]
    answer = client.responses.create(**{**ASKED, "max_output_tokens": 20}, input=given, tool_choice="none")
    assert [item.type for item in answer.output] == ["message"]
    assert answer.usage is not None
    assert first.usage is not None


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_a_stream_says_the_same(client: OpenAI, seed: int) -> None:
    asked: dict[str, Any] = {**ASKED, "input": [ASK], "tool_choice": "required", "extra_body": {"seed": seed}}
    whole = client.responses.create(**asked)
    with client.responses.stream(**asked) as stream:
        events = list(stream)
        final = stream.get_final_response()
    calls: list[Any] = [item for item in final.output if item.type == "function_call"]
    assert [(call.name, call.arguments) for call in calls] == [(c.name, c.arguments) for c in whole.output]  # type: ignore[union-attr]
    assert all(map(fits, calls))
    for place, call in enumerate(calls):
        mine = [event for event in events if getattr(event, "output_index", None) == place]
        assert mine[0].type == "response.output_item.added"
        assert (mine[0].item.name, mine[0].item.arguments) == (call.name, "")
        deltas = [event.delta for event in mine if event.type == "response.function_call_arguments.delta"]
        done = [event.arguments for event in mine if event.type == "response.function_call_arguments.done"]
        assert "".join(deltas) == call.arguments == "".join(done)
        assert mine[-1].type == "response.output_item.done"
        assert mine[-1].item.call_id == call.call_id


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "function", "name": "clock"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "clock"}]},
    ],
)
def test_the_choice_is_kept(client: OpenAI, choice: Any) -> None:
    reply = client.responses.create(**ASKED, input="x", tool_choice=choice, parallel_tool_calls=False)
    assert [(item.type, getattr(item, "name", "")) for item in reply.output] == [("function_call", "clock")]
    assert reply.parallel_tool_calls is False


def test_calls_are_told_in_the_turn_that_they_belong_to(server: LiveServer, client: OpenAI) -> None:
    call = {"type": "function_call", "call_id": "1", "name": "clock", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "1", "output": "noon"}
    said = {"role": "assistant", "content": "Let me see."}
    items = [ASK, said, call, {**call, "call_id": "2"}, result]
    tool_call = {"type": "function", "id": "1", "function": {"name": "clock", "arguments": "{}"}}
    messages = [ASK, {**said, "tool_calls": [tool_call] * 2}, {"role": "tool", "tool_call_id": "1", "content": "noon"}]
    counted = client.responses.input_tokens.count(model="tiny", input=items)  # type: ignore[arg-type]
    tokenised = server.http.post("/tokenize", json={"messages": messages}).json()
    assert counted.input_tokens == tokenised["count"]

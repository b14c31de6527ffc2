"""Tools and forms of answers in the Python API: calls always fit, whatever the weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.engine.helpers import assert_empty
from tests.live import write_model
from wingbeat import LLM, Conversation, SamplingParams, Tool, calling
from wingbeat.sampling.constraint import Constraint
from wingbeat.text import tool_calls
from wingbeat.text.tools import ToolCall

CITY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20, "minLength": 20},
        "days": {"type": "integer", "maximum": 9},
    },
    "required": ["city"],
}
WEATHER = Tool("get_weather", "Tells the weather.", CITY)
CLOCK = {"type": "function", "function": {"name": "clock"}}
TOOLS: list[Any] = [WEATHER, CLOCK]
ASK: list[dict[str, Any]] = [{"role": "user", "content": "How is the weather?"}]
LONG = SamplingParams(seed=4, max_tokens=2000)


@pytest.fixture(scope="module", params=["world", "g1"])
def llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    path: Path = write_model(tmp_path_factory.mktemp("tools"))
    with LLM(path, dtype="float32", profile=request.param) as llm:
        yield llm


def fits(call: ToolCall) -> bool:
    if call.name == "clock":
        return call.parsed == {}
    jsonschema.validate(call.parsed, CITY)
    return call.name == "get_weather" and call.is_whole


@pytest.mark.parametrize("thinking", [None, False])
def test_the_loop(llm: LLM, thinking: bool | None) -> None:
    messages = list(ASK)
    reply = llm.chat(messages, LONG, tools=TOOLS, tool_choice="required", thinking=thinking)
    assert reply.finish_reason == "stop"
    assert reply.tool_calls
    assert all(map(fits, reply.tool_calls))
    assert "```" not in reply.text
    messages += [reply.message, *({"role": "tool", "content": "sunny"} for _ in reply.tool_calls)]
    answer = llm.chat(messages, SamplingParams(seed=1, max_tokens=8), tools=TOOLS)
    assert answer.tool_calls == []
    told = llm.tokenizer.decode(answer.prompt_ids)
    assert told.count('"get_weather", "description"') == 1
    assert all(call.arguments in told for call in reply.tool_calls)
    assert told.count("Function output:\nsunny") == len(reply.tool_calls)
    assert_empty(llm._shared.engine)


def test_which_calls_are_made(llm: LLM) -> None:
    several = [
        llm.chat(
            ASK, SamplingParams(seed=seed, max_tokens=3000, logit_bias={92: 8}), tools=TOOLS, tool_choice="required"
        )
        for seed in range(3)
    ]  # a bracket begins a list
    assert max(len(reply.tool_calls) for reply in several) > 1
    for choice in ({"tool_choice": "clock"}, {"tool_choice": "required", "parallel_tool_calls": False}):
        reply = llm.chat(ASK, LONG, tools=TOOLS, **choice)
        assert len(reply.tool_calls) == 1
        assert fits(reply.tool_calls[0])
        assert "tool_choice" not in choice or choice["tool_choice"] in ("required", reply.tool_calls[0].name)
    plain = SamplingParams(seed=2, max_tokens=12)
    assert llm.chat(ASK, plain, tools=TOOLS, tool_choice="none") == llm.chat(ASK, plain)


def test_the_model_chooses(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (calling, tool_calls):  # a fence that these weights can be made to write
        monkeypatch.setattr(module, "FENCE", "`")
    biased = SamplingParams(seed=4, max_tokens=2000, logit_bias={97: 6})
    reply = llm.chat(ASK, biased, tools=TOOLS, thinking=False)
    assert reply.tool_calls
    assert all(map(fits, reply.tool_calls))
    assert "`" not in reply.text


def test_a_call_that_is_cut_off_says_so(llm: LLM) -> None:
    brief = SamplingParams(seed=4, max_tokens=60)  # the vocabulary is of bytes
    reply = llm.chat(ASK, brief, tools=[WEATHER], tool_choice="required", thinking=False)
    assert reply.finish_reason == "length"
    (call,) = reply.tool_calls
    assert not call.is_whole
    with pytest.raises(json.JSONDecodeError):
        _ = call.parsed


@pytest.mark.parametrize("thinking", [None, False])
def test_a_reply_that_is_valid_for_a_schema(llm: LLM, thinking: bool | None) -> None:
    for schema in (CITY, json.dumps(CITY)):
        reply = llm.chat(ASK, LONG, schema=schema, thinking=thinking)
        jsonschema.validate(json.loads(reply.text), CITY)
        assert reply.tool_calls == []
    either = llm.chat(ASK, LONG, schema={"const": 5}, tools=TOOLS)
    assert (either.text == "5") != bool(either.tool_calls)


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"tools": ["clock"]}, "a tool is"),
        ({"tools": [{"name": "a b"}]}, "name has 1 to 64"),
        ({"tools": [CLOCK, CLOCK]}, "a name of its own"),
        ({"tools": [{"name": "f", "parameters": {"type": "string"}}]}, "schema of an object"),
        ({"tools": [{"name": "f", "parameters": {"properties": {"a": {"type": "nothing"}}}}], "tool_choice": "f"}, "."),
        ({"tools": TOOLS, "tool_choice": "other"}, "tool_choice must be"),
        ({"tool_choice": "required"}, "no tools to choose from"),
        ({"schema": {"type": "nothing"}}, "."),
        ({"schema": "{"}, "."),
        ({"schema": CITY, "sampling_params": SamplingParams(constraint=Constraint("regex", "a"))}, "one form"),
        ({"tools": TOOLS, "sampling_params": SamplingParams(allowed_token_ids=(5,))}, "allowed_token_ids"),
    ],
)
def test_what_is_refused(llm: LLM, asked: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        llm.chat(ASK, **asked)
    assert_empty(llm._shared.engine)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant"},
        {"role": "assistant", "content": None},
        {"role": "assistant", "tool_calls": ["clock"]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "clock"}}]},
        {"role": "tool", "content": 5},
    ],
)
def test_messages_of_another_form(llm: LLM, message: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is "):
        llm.chat([*ASK, message])


def test_a_conversation_with_tools(llm: LLM, tmp_path: Path) -> None:
    talk = Conversation(llm, system="Be kind.", tools=TOOLS)
    reply = talk.say("How is the weather?", LONG, tool_choice="required").wait()
    assert reply.tool_calls
    assert all(map(fits, reply.tool_calls))
    sent_anew = llm.chat(talk.messages[:-1], LONG, tools=TOOLS, tool_choice="required")
    assert (sent_anew.token_ids, sent_anew.tool_calls) == (reply.token_ids, reply.tool_calls)
    with pytest.raises(ValueError, match=f"has {len(reply.tool_calls)} calls"):
        talk.give([])
    brief = SamplingParams(seed=3, max_tokens=10)
    answer = talk.give(["sunny"] * len(reply.tool_calls), brief).wait()
    assert answer.token_ids == llm.chat(talk.messages[:-1], brief, tools=TOOLS).token_ids
    assert [said["role"] for said in talk.messages[:3]] == ["system", "user", "assistant"]
    talk.save(tmp_path / "talk")
    later = Conversation(llm, tools=TOOLS)
    later.load(tmp_path / "talk")
    assert later.messages == talk.messages
    form = {"type": "integer", "minimum": 3, "maximum": 7}
    again = later.say("And now?", LONG, schema=form, thinking=False).wait()
    assert 3 <= json.loads(again.text) <= 7
    assert again.token_ids == talk.say("And now?", LONG, schema=form, thinking=False).wait().token_ids
    with pytest.raises(ValueError, match="has 0 calls"):
        later.give(["sunny"])

from __future__ import annotations

import json

from wingbeat.text.templates import G1, WORLD, Message
from wingbeat.text.tools import Tool, ToolCall, is_tool_name, tool_list, written_calls

WEATHER = Tool("weather", "Tells\n\nthe weather.", {"type": "object", "properties": {"city": {"type": "string"}}})
CLOCK = Tool("clock")
CALL = ToolCall("weather", '{"city":"Paris"}')


def test_a_call_is_fenced_json() -> None:
    assert written_calls([CALL]) == '```json\n{"name": "weather", "arguments": {"city":"Paris"}}\n```'
    several = written_calls([CALL, ToolCall("clock", " ")]).removeprefix("```json\n").removesuffix("\n```")
    assert json.loads(several) == [
        {"name": "weather", "arguments": {"city": "Paris"}},
        {"name": "clock", "arguments": {}},
    ]


def test_what_is_told_is_json_without_blank_lines() -> None:
    told = tool_list([WEATHER, CLOCK])
    assert "\n" not in told
    assert json.loads(told) == [
        {"name": "weather", "description": WEATHER.description, "parameters": WEATHER.parameters},
        {"name": "clock", "parameters": {}},
    ]


def test_the_system_tells_of_tools_once_at_the_beginning() -> None:
    ask = [Message("user", "hi")]
    alone = "".join(WORLD.render(WORLD.with_tools(ask, WORLD.told_of([CLOCK]))))
    assert alone.startswith('System: Tools:\n[{"name": "clock", "parameters": {}}]\n')
    assert "\n\nUser: hi\n\nAssistant:" in alone
    after = "".join(G1.render(G1.with_tools([Message("system", "Be brief."), *ask], G1.told_of([CLOCK]))))
    assert after.startswith("System: Be brief.\nTools:\n[")
    assert after.count("System:") == 1
    assert WORLD.told_of([CLOCK], "Use\n\n{tools}!") == 'Use\n[{"name": "clock", "parameters": {}}]!'


def test_what_was_called_is_part_of_its_turn() -> None:
    turns = [
        Message("user", "How is it?"),
        Message("assistant", "Let me see. ", tool_calls=(CALL,)),
        Message("tool", '{"t": 20}'),
        Message("assistant", "", tool_calls=(CALL,)),
    ]
    call = written_calls([CALL])
    for template in (WORLD, G1):
        assert "".join(template.render(turns)) == (
            f"User: How is it?\n\nAssistant: Let me see.\n{call}\n\n"
            f'User: Function output:\n{{"t": 20}}\n\nAssistant: {call}\n\nAssistant:'
        )


def test_an_answer_that_must_begin_at_once_follows_a_whole_reasoning() -> None:
    ask = [Message("user", "hi")]
    assert G1.closed(G1.render(ask, thinking=False))[-1] == " <think>\n</think>\n"
    for template, thinking in ((G1, True), (G1, None), (WORLD, False)):
        segments = template.render(ask, thinking=thinking)
        assert template.closed(segments) == segments


def test_names() -> None:
    assert all(map(is_tool_name, ("f", "get_weather-2", "x" * 64)))
    assert not any(map(is_tool_name, ("", "a b", "x" * 65, "é", "a.b", "a\n")))


def test_schemas_of_arguments() -> None:
    assert CLOCK.schema == {"type": "object", "properties": {}, "additionalProperties": False}
    assert Tool("f", parameters={}).schema == {"type": "object"}
    reference = {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}}
    assert Tool("f", parameters=reference).schema == reference

"""Answers with calls by themselves, however their text is cut."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from wingbeat.engine.messages import RowOutput
from wingbeat.server.dialects.openai_chat import ChatChoice
from wingbeat.server.dialects.openai_tokens import TokenTexts
from wingbeat.server.dialects.openai_tools import AnswerForm, offered_tools
from wingbeat.server.dialects.openai_tools_schema import FunctionBody, ToolChoice
from wingbeat.text.reasoning import ReasoningSplitter
from wingbeat.text.tool_calls import CallReader
from wingbeat.text.tools import ToolCall, written_calls

NASTY = ToolCall("weather", '{"city":"a\\"}]```json\\\\","n":[1,{"x":{}}],"e":""}')
CLOCK = ToolCall("clock", "{}")
FUNCTIONS = [FunctionBody(name="weather"), FunctionBody(name="clock")]


def pieces(text: str, rng: random.Random) -> list[str]:
    """The text in random pieces, some of which are empty."""
    places = sorted(rng.randrange(len(text) + 1) for _ in range(rng.randrange(12)))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


def read(reader: CallReader, parts: list[str]) -> str:
    shown = ""
    grown: dict[int, str] = {}
    for part in parts:
        text, deltas = reader.push(part)
        shown += text
        for delta in deltas:
            assert (delta.name is not None) == (delta.place not in grown)
            grown[delta.place] = grown.get(delta.place, "") + delta.arguments
    assert [call.arguments for call in reader.calls] == [grown[place] for place in range(len(grown))]
    return shown + reader.flush()


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("said", ["", "Let me ``` see.\n", "``"])
@pytest.mark.parametrize("calls", [[NASTY], [CLOCK], [NASTY, CLOCK, NASTY]])
def test_calls_are_told_from_text(seed: int, said: str, calls: list[ToolCall]) -> None:
    reader = CallReader(at_start=not said)
    assert read(reader, pieces(said + written_calls(calls), random.Random(seed))) == said.rstrip()
    assert [ToolCall(call.name, call.arguments) for call in reader.calls] == calls
    assert len({call.id for call in reader.calls}) == len(calls)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("text", ['{"x":"```json\\n{\\"name\\": \\"f\\"}"}', " ``js", "```", "", " so ```json {}"])
def test_a_form_that_is_no_call_stays_text(seed: int, text: str) -> None:
    reader = CallReader(at_start=True)
    assert read(reader, pieces(text, random.Random(seed))) == text
    assert reader.calls == []


def test_a_call_that_was_cut_off() -> None:
    whole = written_calls([NASTY])
    for size in range(len(whole)):
        reader = CallReader(at_start=False)
        shown = read(reader, [whole[:size]])
        assert [call.name for call in reader.calls] in ([], ["weather"])
        assert all(NASTY.arguments.startswith(call.arguments) for call in reader.calls)
        assert shown == (whole[:size] if size < len("```json") else "")


def choice(parts: list[str], *, legacy: bool = False, reason: Any = "stop") -> tuple[dict[str, Any], list[Any]]:
    """The whole choice, and its chunks."""
    fields = ("functions", "function_call") if legacy else ("tools", "tool_choice")
    form = AnswerForm(offered_tools(FUNCTIONS, ToolChoice("auto"), None, fields))
    made = ChatChoice(ReasoningSplitter("Assistant:"), TokenTexts(lambda _: b""), form, logprobs=False)
    rows = [RowOutput(1, 0, part) for part in parts]
    rows[-1].finish_reason = reason
    pushed = [made.push(row) for row in rows]
    return made.whole(pushed), [chunk for piece in pushed for chunk in made.chunks(piece)]


@pytest.mark.parametrize("seed", range(10))
def test_a_stream_says_what_the_message_does(seed: int) -> None:
    text = f" Let me see.\n{written_calls([NASTY, CLOCK])}"
    whole, chunks = choice(pieces(text, random.Random(seed)))
    assert whole["finish_reason"] == "tool_calls"
    assert whole["message"]["content"] == "Let me see."
    told = whole["message"]["tool_calls"]
    assert [(call["function"]["name"], call["function"]["arguments"]) for call in told] == [NASTY, CLOCK]
    assert "".join(chunk["delta"].get("content", "") for chunk in chunks) == "Let me see."
    deltas = [call for chunk in chunks for call in chunk["delta"].get("tool_calls", ())]
    for place, call in enumerate(told):
        first, *rest = [delta for delta in deltas if delta["index"] == place]
        assert first == {"index": place, **call, "function": {"name": call["function"]["name"], "arguments": ""}}
        assert all(list(delta) == ["index", "function"] for delta in rest)
        assert "".join(delta["function"]["arguments"] for delta in rest) == call["function"]["arguments"]
    assert [chunk["finish_reason"] for chunk in chunks if chunk["finish_reason"]] == ["tool_calls"]
    assert chunks[-1]["delta"] == {}
    assert chunks[-1]["finish_reason"] == "tool_calls"


def test_the_older_form() -> None:
    whole, chunks = choice([written_calls([NASTY])], legacy=True)
    assert whole["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "function_call": {"name": "weather", "arguments": NASTY.arguments},
    }
    assert whole["finish_reason"] == "function_call"
    deltas = [chunk["delta"]["function_call"] for chunk in chunks if "function_call" in chunk["delta"]]
    assert deltas == [{"name": "weather", "arguments": ""}, {"arguments": NASTY.arguments}]


def test_without_a_call_it_is_an_answer_like_others() -> None:
    whole, chunks = choice([" It is", " sunny. "])
    assert whole["message"] == {"role": "assistant", "content": "It is sunny.", "refusal": None}
    assert (whole["finish_reason"], chunks[-1]["finish_reason"]) == ("stop", "stop")
    whole, _ = choice(['```json\n{"name": "clock", "arguments": {'], reason="length")
    assert whole["finish_reason"] == "length"
    assert json.loads(whole["message"]["tool_calls"][0]["function"]["arguments"] + "}") == {}

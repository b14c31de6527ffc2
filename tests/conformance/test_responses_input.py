"""What the Responses API takes and what it refuses, by the `openai` package and by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.live import LiveServer
from wingbeat.server.dialects.responses_input import InputItem, conversation
from wingbeat.server.dialects.responses_schema import ResponsesBody
from wingbeat.text.profile import PROFILES

HELLO = {"role": "user", "content": "hello"}


def said(client: OpenAI, items: Any, **extra: Any) -> tuple[str, int]:
    """The answer to these items, and how many tokens they are."""
    body = {"seed": 2, "logit_bias": {"11": -100, "261": -100}, **extra}
    reply = client.responses.create(model="tiny", input=items, max_output_tokens=12, extra_body=body)
    assert reply.usage is not None
    return reply.output_text, reply.usage.input_tokens


def test_a_text_is_a_message_of_the_user(client: OpenAI) -> None:
    assert said(client, "hello") == said(client, [HELLO]) == said(client, [{**HELLO, "type": "message"}])


def test_items_are_the_messages_of_a_chat(client: OpenAI) -> None:
    items: Any = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "input_text", "text": "hel"}, {"type": "input_text", "text": "lo"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "abc"},
        {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [
            {"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []},
            {"type": "refusal", "refusal": "!"},
        ]},
        {"type": "message", "role": "user", "content": "bye", "id": None, "status": None},
    ]  # fmt: skip
    messages: Any = [
        {"role": "system", "content": "Be kind."},
        HELLO,
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": "bye"},
    ]
    chat = client.chat.completions.create(
        model="tiny", messages=messages, seed=2, max_tokens=12, logit_bias={"11": -100, "261": -100}
    )
    assert chat.usage is not None
    assert said(client, items) == (chat.choices[0].message.content, chat.usage.prompt_tokens)


def test_instructions_come_first(client: OpenAI) -> None:
    system = {"role": "system", "content": "Two."}
    alone = [{"role": "system", "content": "One."}, system, HELLO]
    assert said(client, [system, HELLO], instructions="One.") == said(client, alone)


@pytest.mark.parametrize("streamed", [True, False])
def test_output_can_be_given_back(
    client: OpenAI, monkeypatch: pytest.MonkeyPatch, server: LiveServer, streamed: bool
) -> None:
    """As the package hands it out, as its objects or as dictionaries, reasoning included."""
    for profile, kinds in (("world", ["message"]), ("g1", ["reasoning"])):
        monkeypatch.setattr(server.registry.models[0], "_profile", PROFILES[profile])
        request: Any = {"model": "tiny", "input": [HELLO], "reasoning": {"effort": "high"}, "max_output_tokens": 8}
        request["temperature"] = 0  # so that no stop comes up by chance
        request["extra_body"] = {"ignore_eos": True}
        if streamed:
            last = list(client.responses.create(**request, stream=True))[-1]
            assert last.type == "response.incomplete"
            first = last.response
        else:
            first = client.responses.create(**request)
        assert [item.type for item in first.output] == kinds
        following = {"role": "user", "content": "more"}
        objects = said(client, [HELLO, *first.output, following])
        dictionaries = said(client, [HELLO, *(item.to_dict() for item in first.output), following])
        assert objects == dictionaries
        plain = [{"role": "assistant", "content": first.output_text}] if first.output_text else []
        assert objects == said(client, [HELLO, *plain, following])


def test_reasoning_belongs_to_the_answer_that_follows() -> None:
    items = [
        InputItem.model_validate(item)
        for item in (
            {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "so"}]},
            {"type": "reasoning", "content": [{"type": "reasoning_text", "text": " be"}]},
            {"role": "assistant", "content": "Yes."},
            {"role": "assistant", "content": "No."},
            {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]},
        )
    ]
    spoken = [(m.content, m.reasoning_content) for m in conversation(None, items, continue_final=True)]
    assert spoken == [("Yes.", "so be"), ("No.", None), ("", "hm")]
    assert [m.content for m in conversation(None, items, continue_final=False)] == ["Yes.", "No."]


@pytest.mark.parametrize("final", ["", "I will"])
def test_an_unfinished_answer_is_continued(
    client: OpenAI, server: LiveServer, monkeypatch: pytest.MonkeyPatch, final: str
) -> None:
    monkeypatch.setattr(server.registry.models[0], "_profile", PROFILES["g1"])
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    answer = [{"role": "assistant", "content": final}] if final else []
    body = {"seed": 2, "max_tokens": 12, "extra_body": {"continue_final_message": True}}
    last: Any = {"role": "assistant", "content": final, "reasoning_content": "hm"}
    chat = client.chat.completions.create(model="tiny", messages=[HELLO, last], **body)  # type: ignore[call-overload]
    items: Any = [HELLO, thought, *answer]
    reply = client.responses.create(
        model="tiny", input=items, max_output_tokens=12, extra_body={"seed": 2, "continue_final_message": True}
    )
    assert reply.usage is not None
    assert reply.usage.input_tokens == chat.usage.prompt_tokens
    assert reply.output_text == chat.choices[0].message.content
    assert [item.type for item in reply.output] == (["message"] if final else ["reasoning"])


def test_counting_generates_nothing(client: OpenAI, server: LiveServer) -> None:
    items: Any = [{"role": "system", "content": "Be kind."}, HELLO]
    before = server.registry.models[0].client.stats().generated_tokens
    counted = client.responses.input_tokens.count(model="tiny", input=items)
    assert (counted.object, server.registry.models[0].client.stats().generated_tokens) == (
        "response.input_tokens",
        before,
    )
    assert counted.input_tokens == said(client, items)[1]
    assert client.responses.input_tokens.count(input="hello", instructions="Be kind.").input_tokens == (
        counted.input_tokens
    )


@pytest.mark.parametrize(
    ("asked", "param", "message"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "Send the conversation's items in input instead"),
        ({"conversation": "conv_1"}, "conversation", "not stored"),
        ({"prompt": {"id": "pmpt_1"}, "input": None}, "prompt", "not stored"),
        ({"background": True}, "background", "not supported yet"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "'web_search' are not supported"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name", "1 to 64 letters"),
        ({"tools": [{"type": "function", "name": "f"}] * 2}, "tools", "several tools of the name 'f'"),
        ({"tool_choice": "required"}, "tool_choice", "no tools to choose from"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice", "no tools to choose from"),
        ({"text": {"format": {"type": "xml"}}}, "text.format", "'xml' is not supported yet"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name", "required"),
        ({"text": {"verbosity": "some"}}, "text.verbosity", "must be 'low', 'medium' or 'high'"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort", "must be 'none'"),
        ({"reasoning": {"context": "all_turns"}}, "reasoning.context", "not supported yet"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode", "not supported yet"),
        ({"prompt_cache_options": {"prewarm": True}}, "prompt_cache_options.prewarm", "not supported yet"),
        ({"context_management": [{"type": "compaction"}]}, "context_management", "not supported yet"),
        ({"moderation": {"model": "m"}}, "moderation", "not supported yet"),
        ({"include": ["everything"]}, "include", "'everything' is none of"),
        ({"top_logprobs": 21}, "top_logprobs", "at most 20"),
        ({"max_output_tokens": 0}, "max_output_tokens", "at least 1"),
        ({"metadata": {"a": 1}}, "metadata", "up to 16 texts"),
        ({"metadata": {"a": "b" * 513}}, "metadata", "512"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata", "up to 16 texts"),
        ({"n": 2}, "n", "at most 1"),
        ({"temperature": 3}, "temperature", "at most 2"),
        ({"logit_bias": {"300": 1}}, "logit_bias", "not a token"),
        ({"messages": [HELLO], "input": None}, "messages", "has input instead"),
        ({"max_tokens": 5}, "max_tokens", "has max_output_tokens instead"),
        ({"response_format": {"type": "json_object"}}, "response_format", "has text.format instead"),
        ({"continue_final_message": True}, "continue_final_message", "must be an assistant's"),
        ({"input": None}, "input", "required"),
        ({"input": []}, "input", "at least one message"),
        ({"input": [], "continue_final_message": True}, "input", "at least one message"),
        ({"input": 5}, "input", "a text or a list of items"),
        ({"input": ["x"]}, "input[0]", "must be an object"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input", "at least one message"),
        ({"input": [HELLO, {"type": "computer_call"}]}, "input[1].type", "'computer_call'"),
        ({"input": [HELLO, {"type": "function_call_output"}]}, "input[1].output", "a text or a list of parts"),
        ({"input": [HELLO, {"type": "function_call", "name": "f"}]}, "input[1].arguments", "has a name and arguments"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type", "send the item itself"),
        ({"input": [{"id": "msg_1"}]}, "input[0].role", "needs a role"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role", "must be 'user'"),
        ({"input": [{"role": "user"}]}, "input[0].content", "a text or a list of parts"),
        ({"input": [{"role": "user", "content": ["x"]}]}, "input[0].content", "part 0 is not an object with a type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content",
            "'input_image' is not supported, only 'input_text' and 'output_text'",
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content", "part 0 has no text"),
        (
            {"input": [{"type": "reasoning", "content": [{"type": "text", "text": "x"}]}, HELLO]},
            "input[0].content",
            "only 'reasoning_text'",
        ),
    ],
)
def test_what_is_refused(server: LiveServer, asked: dict[str, Any], param: str, message: str) -> None:
    reply = server.http.post("/v1/responses", json={"input": "x", "max_output_tokens": 1, **asked})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["param"] == param
    assert message in error["message"]
    assert error["message"].startswith(param) or error["code"] == "unsupported_value"


def test_refusals_are_those_of_the_client_library(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.responses.create(model="gpt-9", input="x")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as previous:
        client.responses.create(model="tiny", input="x", previous_response_id="resp_1")
    assert (previous.value.param, previous.value.code) == ("previous_response_id", "unsupported_value")
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model="tiny", input="x", background=True)


def test_what_means_nothing_here_is_no_obstacle(client: OpenAI) -> None:
    *_, last = client.responses.create(
        model="tiny",
        input="x",
        max_output_tokens=1,
        stream=True,
        stream_options={"include_obfuscation": True},
        include=["reasoning.encrypted_content", "file_search_call.results"],
        tools=[],
        tool_choice="auto",
        text={"format": {"type": "text"}},
        reasoning={"summary": "auto", "context": "auto", "mode": "standard"},
        prompt_cache_options={"mode": "implicit", "ttl": "30m"},
        extra_body={"background": None, "conversation": None, "previous_response_id": None, "novelty": 1},
    )
    assert last.type == "response.incomplete"


def test_every_field_is_described() -> None:
    docs = Path(__file__).parents[2] / "docs"
    text = (docs / "responses.md").read_text(encoding="utf-8")
    assert "api.md#fields-of-other-servers" in text
    text += (docs / "api.md").read_text(encoding="utf-8").split("## Fields of other servers")[1]
    assert [name for name in ResponsesBody.model_fields if f"`{name}`" not in text] == []

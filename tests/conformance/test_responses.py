"""`client.responses` of the `openai` package, unmodified; replies held against the package's own types, strictly, and
against the models of the OpenAPI document."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types import responses as theirs
from pydantic import BaseModel, TypeAdapter

from tests.live import LiveServer
from wingbeat.engine.generation import Generation
from wingbeat.engine.messages import GenerationRequest, RowOutput, TokenLogprob
from wingbeat.server.dialects import responses_replies as ours
from wingbeat.text.profile import PROFILES

LOGPROBS: Any = ["message.output_text.logprobs"]
NO_NEWLINES = {"11": -100, "261": -100}  # the profile's stop would end the reply
SEEDED: Any = {"seed": 4, "logit_bias": NO_NEWLINES}
STREAM_EVENT: TypeAdapter[theirs.ResponseStreamEvent] = TypeAdapter(theirs.ResponseStreamEvent)

BEYOND_PACKAGE = {"store", "presence_penalty", "frequency_penalty"}
"""Fields of a response that OpenAI sends and the package has no name for."""


@pytest.fixture(params=["/v1", "/openai/v1"])
def client(server: LiveServer, request: pytest.FixtureRequest) -> Iterator[OpenAI]:
    with OpenAI(base_url=server.url + request.param, api_key="unused", max_retries=0) as made:
        yield made


@pytest.fixture
def thinking(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model passes for one that can reason."""
    monkeypatch.setattr(server.registry.models[0], "_profile", PROFILES["g1"])


class Played(Generation):
    """A generation whose outputs are given, each in a step of its own."""

    def __init__(self, request: GenerationRequest, outputs: list[RowOutput]) -> None:
        super().__init__(request, lambda generation: None)
        self._outputs = list(outputs)

    async def __anext__(self) -> list[RowOutput]:
        if not self._outputs:
            raise StopAsyncIteration
        return [self._outputs.pop(0)]


def play(server: LiveServer, monkeypatch: pytest.MonkeyPatch, outputs: list[RowOutput]) -> None:
    """Every request is answered with these outputs."""
    monkeypatch.setattr(server.registry.models[0].client, "submit", lambda request: Played(request, outputs))


def typed(text: str, finish_reason: Any, *, apart: bool = True) -> list[RowOutput]:
    """The outputs of a row that says `text` one ASCII byte a token, in steps of their own or in one."""
    tokens = [byte + 1 for byte in text.encode()]
    logprobs = [TokenLogprob(token, -0.5, [(token, -0.5)]) for token in tokens]
    rows = [
        RowOutput(1, 0, character, [token], [logprob])
        for character, token, logprob in zip(text, tokens, logprobs, strict=True)
    ]
    if not apart:
        rows = [RowOutput(1, 0, text, tokens, logprobs)]
    end = RowOutput(1, 0, "", [0], [TokenLogprob(0, -0.1, [])]) if finish_reason == "stop" else rows.pop()
    end.finish_reason, end.prompt_tokens = finish_reason, 3
    end.completion_tokens = len(tokens) + (finish_reason == "stop")
    return [*rows, end]


def raw_events(server: LiveServer, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a stream, checked one by one: their lines, their numbers, their shape by either side's types."""
    reply = server.http.post("/v1/responses", json={**body, "stream": True})
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].startswith("text/event-stream")
    *blocks, end = reply.text.split("\n\n")
    assert end == ""
    events = []
    for number, block in enumerate(blocks):
        kind, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert (kind, event["sequence_number"]) == (f"event: {event['type']}", number)
        ours.ResponseEvent.model_validate(event)
        check_theirs(STREAM_EVENT.validate_python(event, strict=True), event)
        events.append(event)
    return events


def raw_whole(server: LiveServer, body: dict[str, Any]) -> dict[str, Any]:
    """A whole reply, checked likewise."""
    reply = server.http.post("/v1/responses", json=body)
    assert reply.status_code == 200, reply.text
    ours.ResponseReply.model_validate(reply.json())
    check_theirs(theirs.Response.model_validate(reply.json(), strict=True), reply.json())
    return reply.json()


def check_theirs(parsed: Any, sent: dict[str, Any]) -> None:
    """The package knows every field that was sent, and gives back what it was given."""
    assert isinstance(parsed, BaseModel)
    assert json.loads(parsed.model_dump_json(exclude_unset=True)) == sent
    response = parsed if isinstance(parsed, theirs.Response) else getattr(parsed, "response", None)
    if response is not None:
        assert set(response.model_extra or {}) == BEYOND_PACKAGE
    elif not isinstance(parsed, theirs.ResponseErrorEvent):
        assert not parsed.model_extra


def comparable(response: dict[str, Any]) -> dict[str, Any]:
    """A response without what differs between two equal requests."""
    items = [{**item, "id": item["id"].partition("_")[0]} for item in response["output"]]
    return {**response, "id": None, "created_at": None, "completed_at": None, "output": items}


# --- whole


def test_a_response(client: OpenAI) -> None:
    reply = client.responses.create(model="tiny", input="hello", max_output_tokens=10, extra_body={"seed": 1})
    assert reply.id.startswith("resp_")
    assert (reply.object, reply.model) == ("response", "tiny")
    (item,) = reply.output
    assert isinstance(item, theirs.ResponseOutputMessage)
    assert item.id.startswith("msg_")
    assert reply.output_text == item.content[0].to_dict()["text"] != ""
    assert (reply.status, item.status, reply.completed_at) == ("incomplete", "incomplete", None)
    assert reply.incomplete_details is not None
    assert reply.incomplete_details.reason == "max_output_tokens"
    assert reply.usage is not None
    assert (reply.usage.output_tokens, reply.usage.total_tokens) == (10, reply.usage.input_tokens + 10)


def test_it_says_what_a_chat_says(client: OpenAI) -> None:
    request: Any = {"model": "tiny", "temperature": 0.8, "top_p": 0.9, "extra_body": {"seed": 3, "top_k": 50}}
    chat = client.chat.completions.create(
        messages=[{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hello"}],
        max_tokens=30,
        logprobs=True,
        top_logprobs=2,
        **request,
    )
    reply = client.responses.create(
        instructions="Be kind.", input="hello", max_output_tokens=30, include=LOGPROBS, top_logprobs=2, **request
    )
    assert reply.output_text == chat.choices[0].message.content
    assert chat.usage is not None
    assert reply.usage is not None
    assert reply.usage.input_tokens == chat.usage.prompt_tokens
    assert chat.choices[0].logprobs is not None
    content = [entry.to_dict() for entry in chat.choices[0].logprobs.content or []]
    assert reply.output[0].to_dict()["content"][0]["logprobs"] == content  # type: ignore[index]


def test_a_reply_that_stops_is_completed(client: OpenAI) -> None:
    reply = client.responses.create(model="tiny", input="x", extra_body={"logit_bias": {"266": 100}, "stop": "界"})
    assert (reply.output_text, reply.status, reply.incomplete_details) == ("世", "completed", None)
    assert reply.completed_at is not None
    assert reply.created_at <= reply.completed_at


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"max_output_tokens": 200},
        {"include": LOGPROBS},
        {"top_logprobs": 3},
        {"logit_bias": {"261": 100}},  # the stop at once
    ],
)
def test_whole_and_streamed_agree(server: LiveServer, extra: dict[str, Any]) -> None:
    body = {"input": "hello", "max_output_tokens": 25, **SEEDED, **extra}
    whole = raw_whole(server, body)
    events = raw_events(server, body)
    assert comparable(events[-1]["response"]) == comparable(whole)
    assert events[-1]["type"] == f"response.{whole['status']}"
    assert [event["type"] for event in events[:4]] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert [event["type"] for event in events[-4:-1]] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
    ]
    (item,) = events[-1]["response"]["output"]
    (part,) = item["content"]
    deltas = events[4:-4]
    assert {delta["type"] for delta in deltas} <= {"response.output_text.delta"}
    assert "".join(delta["delta"] for delta in deltas) == part["text"] == events[-4]["text"]
    assert [entry for delta in deltas for entry in delta["logprobs"]] == part["logprobs"] == events[-4]["logprobs"]
    assert events[-3]["part"] == part
    assert events[-2]["item"] == item
    assert bool(part["logprobs"]) == bool(extra.keys() & {"include", "top_logprobs"})
    assert {event["item_id"] for event in events if "item_id" in event} == {item["id"]}


def test_settings_come_back(server: LiveServer) -> None:
    asked = {
        "instructions": "Be brief.",
        "max_output_tokens": 2,
        "temperature": 0.5,
        "top_p": 0.25,
        "presence_penalty": 1.5,
        "frequency_penalty": -0.5,
        "top_logprobs": 2,
        "text": {"format": {"type": "text"}, "verbosity": "low"},
        "reasoning": {"effort": "high", "summary": "auto"},
        "tools": [],
        "tool_choice": "none",
        "parallel_tool_calls": False,
        "max_tool_calls": 3,
        "truncation": "auto",
        "metadata": {"a": "b"},
        "user": "me",
        "safety_identifier": "someone",
        "prompt_cache_key": "key",
        "prompt_cache_retention": "24h",
    }
    reply = raw_whole(server, {**asked, "input": "x", "service_tier": "flex", "store": True, "background": False})
    assert {name: reply[name] for name in asked} == asked
    assert (reply["service_tier"], reply["store"], reply["background"]) == ("default", False, False)


# --- streamed, as the package reads it


def test_the_stream_helper(client: OpenAI) -> None:
    request: Any = {"model": "tiny", "input": "x", "extra_body": {"logit_bias": {"266": 100}, "stop": "界"}}
    with client.responses.stream(**request) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text == "世"
    assert final.usage == client.responses.create(**request).usage


async def test_many_at_once_equal_one_alone(aclient: AsyncOpenAI) -> None:
    async def answer(seed: int) -> str:
        extra = {"seed": seed, "logit_bias": NO_NEWLINES}
        stream = await aclient.responses.create(
            model="tiny", input="hello", max_output_tokens=20, stream=True, extra_body=extra
        )
        return "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])

    alone = [await answer(seed) for seed in range(4)]
    assert len(set(alone)) == 4
    assert await asyncio.gather(*(answer(seed % 4) for seed in range(24))) == alone * 6


# --- reasoning


@pytest.mark.usefixtures("thinking")
def test_a_model_that_reasons_to_the_end(client: OpenAI) -> None:
    reply = client.responses.create(
        model="tiny", input="x", reasoning={"effort": "high"}, max_output_tokens=12, extra_body=SEEDED
    )
    (item,) = reply.output
    assert isinstance(item, theirs.ResponseReasoningItem)
    assert item.id.startswith("rs_")
    assert item.content
    assert item.content[0].text
    assert (item.status, reply.status, reply.output_text) == ("incomplete", "incomplete", "")
    assert reply.usage is not None
    assert reply.usage.output_tokens_details.reasoning_tokens == reply.usage.output_tokens == 12


@pytest.mark.usefixtures("thinking")
@pytest.mark.parametrize("effort", ["none", "minimal"])
def test_reasoning_is_switched_off(client: OpenAI, effort: Any) -> None:
    request: Any = {"model": "tiny", "input": "x", "max_output_tokens": 12}
    reply = client.responses.create(reasoning={"effort": effort}, extra_body=SEEDED, **request)
    assert [item.type for item in reply.output] == ["message"]
    same = client.responses.create(extra_body={**SEEDED, "enable_thinking": False}, **request)
    assert same.output_text == reply.output_text


@pytest.mark.usefixtures("thinking")
@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize(
    ("said", "finish_reason", "reasoning", "answer", "reasoning_tokens"),
    [
        ("> so be</think>\n\nYes.", "stop", "so be", "Yes.", 15),
        ("> so be</think>\n\nYes", "length", "so be", "Yes", 15),
        ("> so be", "stop", "so be", None, 8),
        ("> so be</think>\n", "length", "so be", None, 15),
        ("></think>\n\nYes.", "stop", None, "Yes.", 0),
    ],
)
def test_reasoning_comes_before_the_answer(
    server: LiveServer,
    monkeypatch: pytest.MonkeyPatch,
    said: str,
    finish_reason: Any,
    reasoning: str | None,
    answer: str | None,
    reasoning_tokens: int,
    apart: bool,
) -> None:
    play(server, monkeypatch, typed(said, finish_reason, apart=apart))
    body = {"input": "x", "reasoning": {"effort": "low"}, "include": LOGPROBS}
    whole = raw_whole(server, body)
    events = raw_events(server, body)
    assert comparable(events[-1]["response"]) == comparable(whole)
    status = "completed" if finish_reason == "stop" else "incomplete"
    assert whole["status"] == status
    wanted = [("reasoning", reasoning), ("message", answer)]
    found = [(item["type"], item["content"][0]["text"]) for item in whole["output"]]
    assert found == [(kind, text) for kind, text in wanted if text is not None]
    assert [item["status"] for item in whole["output"]] == ["completed"] * (len(found) - 1) + [status]
    assert whole["usage"]["output_tokens_details"]["reasoning_tokens"] == reasoning_tokens
    for index, (kind, text) in enumerate(found):
        event = "response.reasoning_text" if kind == "reasoning" else "response.output_text"
        mine = [e for e in events if e["type"].startswith(event) and e["output_index"] == index]
        assert "".join(e["delta"] for e in mine[:-1]) == mine[-1]["text"] == text
    if reasoning and answer:
        entries = whole["output"][1]["content"][0]["logprobs"]
        assert "".join(entry["token"] for entry in entries) == answer


# --- what goes wrong


@pytest.mark.parametrize(
    ("last", "status"),
    [
        (RowOutput(1, 0, finish_reason="error", error="the step failed"), 500),
        (RowOutput(1, 0, finish_reason="cancelled"), 503),
        (RowOutput(1, 0, text="more"), 503),
    ],
)
def test_a_failed_generation_is_an_error(
    server: LiveServer, client: OpenAI, monkeypatch: pytest.MonkeyPatch, last: RowOutput, status: int
) -> None:
    play(server, monkeypatch, [RowOutput(1, 0, text="some"), last])
    with pytest.raises(openai.APIStatusError) as whole:
        client.responses.create(model="tiny", input="x")
    assert whole.value.status_code == status
    *_, failed, error = raw_events(server, {"input": "x"})
    assert (failed["type"], failed["response"]["status"], error["type"]) == ("response.failed", "failed", "error")
    assert failed["response"]["error"] == {"code": "server_error", "message": error["message"]}
    assert failed["response"]["output"][0]["content"][0]["text"].startswith("some")
    assert error["error"] == whole.value.body
    kinds = []
    with pytest.raises(openai.APIError) as streamed:  # noqa: PT012
        for event in client.responses.create(model="tiny", input="x", stream=True):
            kinds.append(event.type)  # noqa: PERF401 (what came before the exception)
    assert streamed.value.message == error["message"]
    assert kinds[-1] == "response.failed"
    with pytest.raises(openai.APIError), client.responses.stream(model="tiny", input="x") as stream:
        stream.get_final_response()


async def test_a_client_that_leaves_frees_its_slot(server: LiveServer) -> None:
    endless = {"input": "x", "ignore_eos": True, **SEEDED}
    async with httpx.AsyncClient() as client:
        async with client.stream("POST", server.url + "/v1/responses", json={**endless, "stream": True}) as got:
            async for line in got.aiter_lines():
                if "delta" in line:
                    break
            assert (await asyncio.to_thread(server.wait_for, lambda health: health["running"] == 1))["running"] == 1
        assert (await asyncio.to_thread(server.wait_idle))["running"] == 0
        whole = asyncio.create_task(client.post(server.url + "/v1/responses", json=endless))
        assert (await asyncio.to_thread(server.wait_for, lambda health: health["running"] == 1))["running"] == 1
        whole.cancel()
        await asyncio.gather(whole, return_exceptions=True)
    assert (await asyncio.to_thread(server.wait_idle))["running"] == 0


def test_nothing_is_stored(client: OpenAI) -> None:
    reply = client.responses.create(model="tiny", input="x", store=True, max_output_tokens=1)
    for ask in (
        client.responses.retrieve,
        client.responses.delete,
        client.responses.cancel,
        client.responses.input_items.list,
    ):
        with pytest.raises(openai.NotFoundError, match="not stored") as caught:
            ask(reply.id)
        assert caught.value.code == "response_not_found"
    with pytest.raises(openai.BadRequestError, match="not supported yet"):
        client.responses.compact(model="tiny", input="x")

"""What the `openai` package offers around plain requests: helpers, raw replies, pages, and what is not offered here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from tests.live import LiveServer

HELLO: Any = [{"role": "user", "content": "hello"}]
CHAT: dict[str, Any] = {"model": "tiny", "messages": HELLO, "seed": 1, "max_tokens": 20}


@pytest.fixture
def ended(client: OpenAI) -> dict[str, Any]:
    """A request whose reply says something and then ends by itself: the helpers take nothing that was cut off."""
    narrow = {**CHAT, "top_p": 1e-6, "frequency_penalty": 1}  # every choice says the same, and no word all the time
    text = client.chat.completions.create(**narrow).choices[0].message.content
    assert text
    return {**narrow, "stop": text[len(text) // 2 :]}


@pytest.mark.parametrize("extra", [{}, {"n": 2}, {"logprobs": True, "top_logprobs": 2}])
def test_the_streaming_helper(client: OpenAI, ended: dict[str, Any], extra: dict[str, Any]) -> None:
    plain = client.chat.completions.create(**ended, **extra)
    with client.chat.completions.stream(**ended, **extra, stream_options={"include_usage": True}) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    for told, wanted in zip(final.choices, plain.choices, strict=True):
        assert told.message.content == wanted.message.content
        assert told.finish_reason == wanted.finish_reason
        assert (told.logprobs and told.logprobs.content) == (wanted.logprobs and wanted.logprobs.content)
    assert final.usage == plain.usage
    assert {"chunk", "content.delta", "content.done"} <= set(kinds)
    assert ("logprobs.content.delta" in kinds) == ("logprobs" in extra)


async def test_the_streaming_helper_asynchronously(aclient: AsyncOpenAI) -> None:
    plain = await aclient.chat.completions.create(**CHAT)
    async with aclient.chat.completions.stream(**CHAT) as stream:
        text = "".join([event.delta async for event in stream if event.type == "content.delta"])
    assert text == plain.choices[0].message.content


class Answer(BaseModel):
    number: int


def test_parsing(client: OpenAI, ended: dict[str, Any]) -> None:
    asked = {**CHAT, "max_tokens": 100}
    assert isinstance(client.chat.completions.parse(**asked, response_format=Answer).choices[0].message.parsed, Answer)
    assert client.chat.completions.parse(**ended).choices[0].message.content


def test_raw_replies(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(**CHAT)
    assert (raw.status_code, raw.headers["content-type"]) == (200, "application/json")
    assert raw.parse().choices == client.chat.completions.create(**CHAT).choices
    completion = client.completions.with_raw_response.create(model="tiny", prompt="x", seed=1)
    assert completion.parse().object == "text_completion"


def test_streamed_raw_replies(client: OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(**CHAT, stream=True) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in reply.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert all(line.startswith("data: {") for line in lines[:-1])
    with client.completions.with_streaming_response.create(model="tiny", prompt="x") as plain:
        assert plain.parse().choices


async def test_streamed_raw_replies_asynchronously(aclient: AsyncOpenAI) -> None:
    async with aclient.completions.with_streaming_response.create(model="tiny", prompt="x", stream=True) as reply:
        assert [line async for line in reply.iter_lines() if line][-1] == "data: [DONE]"


def test_leaving_a_stream_early(client: OpenAI, server: LiveServer) -> None:
    with client.completions.create(model="tiny", prompt="x", max_tokens=100_000, stream=True) as stream:
        next(iter(stream))
    assert server.wait_idle()["running"] == 0


def test_pages_of_models(client: OpenAI) -> None:
    page = client.models.list()
    assert not page.has_next_page()
    assert [model.id for model in page] == [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.with_raw_response.retrieve("tiny").parse().id == "tiny"


async def test_pages_of_models_asynchronously(aclient: AsyncOpenAI) -> None:
    assert [model.id async for model in aclient.models.list()] == ["tiny"]


def test_models_cannot_be_deleted(client: OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.models.delete("tiny")
    assert (caught.value.status_code, caught.value.code) == (405, "method_not_allowed")


STORED: dict[str, Callable[[OpenAI], Any]] = {
    "retrieve": lambda client: client.chat.completions.retrieve("chatcmpl-1"),
    "list": lambda client: client.chat.completions.list(),
    "update": lambda client: client.chat.completions.update("chatcmpl-1", metadata={}),
    "delete": lambda client: client.chat.completions.delete("chatcmpl-1"),
    "messages": lambda client: client.chat.completions.messages.list("chatcmpl-1"),
}


@pytest.mark.parametrize("name", STORED)
def test_nothing_is_stored(client: OpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError, match="no stored completions") as caught:
        STORED[name](client)
    assert caught.value.code == "not_found"


ABSENT: dict[str, Callable[[OpenAI], Any]] = {
    "images": lambda client: client.images.generate(prompt="x"),
    "audio": lambda client: client.audio.speech.create(model="tiny", input="x", voice="alloy"),
    "moderation": lambda client: client.moderations.create(input="x"),
    "files": lambda client: client.files.list(),
    "batches": lambda client: client.batches.list(),
    "fine-tuning": lambda client: client.fine_tuning.jobs.list(),
}


@pytest.mark.parametrize("name", ABSENT)
def test_what_is_not_offered_says_so(client: OpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError, match=f"does not offer {name}") as caught:
        ABSENT[name](client)
    assert caught.value.code == "unknown_url"

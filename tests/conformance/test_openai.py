"""The `openai` package, unmodified, against a real server; replies held against the models of the OpenAPI document."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.live import LiveServer
from wingbeat.server.dialects import openai_replies as replies

HELLO: Any = [{"role": "user", "content": "hello"}]


@pytest.fixture(params=["/v1", "/openai/v1"])
def client(server: LiveServer, request: pytest.FixtureRequest) -> Iterator[OpenAI]:
    with OpenAI(base_url=server.url + request.param, api_key="unused", max_retries=0) as made:
        yield made


def raw(server: LiveServer, path: str, body: dict[str, Any]) -> Any:
    """The JSON of a plain reply, or the list of chunks of a streamed one."""
    reply = server.http.post(f"/v1/{path}", json=body)
    assert reply.status_code == 200, reply.text
    if not body.get("stream"):
        return reply.json()
    blocks = reply.text.split("\n\n")
    assert blocks[-2:] == ["data: [DONE]", ""]
    return [json.loads(block.removeprefix("data: ")) for block in blocks[:-2]]


# --- models


def test_models(client: OpenAI) -> None:
    (card,) = client.models.list().data
    assert (card.id, card.object, card.owned_by) == ("tiny", "model", "wingbeat")
    assert client.models.retrieve("tiny") == card
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("other")
    assert caught.value.code == "model_not_found"


# --- completions


def test_completion(client: OpenAI) -> None:
    reply = client.completions.create(model="tiny", prompt="the wing", seed=1)
    (choice,) = reply.choices
    assert reply.id.startswith("cmpl-")
    assert reply.object == "text_completion"
    assert reply.model == "tiny"
    assert (reply.system_fingerprint or "").startswith("fp_")
    assert choice.text
    assert choice.finish_reason == "length"
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (2, 16, 18)


def test_completion_stream_equals_the_plain_reply(client: OpenAI) -> None:
    request: dict[str, Any] = {"model": "tiny", "prompt": "the wing", "seed": 3, "max_tokens": 60, "n": 2}
    plain = client.completions.create(**request)
    texts, reasons = ["", ""], [None, None]
    for chunk in client.completions.create(**request, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == [choice.text for choice in plain.choices]
    assert reasons == [choice.finish_reason for choice in plain.choices]
    assert texts[0] != texts[1]


def test_prompts_and_choices_are_in_order(client: OpenAI) -> None:
    request: dict[str, Any] = {"model": "tiny", "seed": 5, "max_tokens": 8}
    both = client.completions.create(prompt=["the ", "wing"], n=2, **request)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    for place, prompt in ((0, "the "), (2, "wing")):
        alone = client.completions.create(prompt=prompt, n=2, **request)
        assert [c.text for c in alone.choices] == [c.text for c in both.choices[place : place + 2]]
    assert both.usage is not None
    assert (both.usage.prompt_tokens, both.usage.completion_tokens) == (2, 32)


def test_prompts_as_token_ids(client: OpenAI, server: LiveServer) -> None:
    tokenizer = server.registry.models[0].tokenizer
    assert tokenizer is not None
    ids = tokenizer.encode("the wing")
    request: dict[str, Any] = {"model": "tiny", "seed": 5, "max_tokens": 8}
    text = client.completions.create(prompt="the wing", **request).choices[0].text
    assert client.completions.create(prompt=ids, **request).choices[0].text == text
    assert [c.text for c in client.completions.create(prompt=[ids, ids], **request).choices] == [text, text]


def test_an_empty_prompt_starts_a_document(client: OpenAI) -> None:
    reply = client.completions.create(model="tiny", prompt="", seed=1, max_tokens=4)
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 4


def test_echo(client: OpenAI) -> None:
    request: dict[str, Any] = {"model": "tiny", "seed": 5, "max_tokens": 8}
    text = client.completions.create(prompt="the wing", **request).choices[0].text
    echoed = client.completions.create(prompt="the wing", echo=True, **request)
    assert echoed.choices[0].text == "the wing" + text
    stream = client.completions.create(prompt="the wing", echo=True, stream=True, **request)
    assert "".join(chunk.choices[0].text for chunk in stream) == "the wing" + text
    only = client.completions.create(model="tiny", prompt="the wing", echo=True, max_tokens=0)
    assert (only.choices[0].text, only.choices[0].finish_reason) == ("the wing", "length")
    assert only.usage is not None
    assert only.usage.completion_tokens == 0


def test_greedy_needs_no_seed(client: OpenAI) -> None:
    texts = {client.completions.create(model="tiny", prompt="a", temperature=0).choices[0].text for _ in range(3)}
    assert len(texts) == 1


def test_seeds(client: OpenAI) -> None:
    def text(seed: int | None) -> str:
        return client.completions.create(model="tiny", prompt="a", seed=seed, max_tokens=20).choices[0].text

    assert text(-(2**63)) == text(-(2**63)) != text(2**63 - 1)
    assert text(None) != text(None)


def test_equal_prompts_are_answered_independently(client: OpenAI) -> None:
    def texts(seed: int | None) -> list[str]:
        reply = client.completions.create(model="tiny", prompt=["a"] * 3, n=2, seed=seed, max_tokens=20)
        return [choice.text for choice in reply.choices]

    assert len(set(texts(None))) == 6
    seeded = texts(7)  # each as it would be alone
    assert seeded[:2] == seeded[2:4] == seeded[4:]
    assert seeded[0] != seeded[1]


def test_extras_beyond_openai(client: OpenAI) -> None:
    def text(**extra: Any) -> str:
        reply = client.completions.create(model="tiny", prompt="a", temperature=1.5, max_tokens=12, extra_body=extra)
        return reply.choices[0].text

    greedy = client.completions.create(model="tiny", prompt="a", temperature=0, max_tokens=12).choices[0].text
    assert text(top_k=1) == text(min_p=1.0) == greedy
    assert text(logit_bias={"266": 30}) == "世界" * 12
    assert text(logit_bias={"266": 30}, repetition_penalty=100) != "世界" * 12
    assert text(top_k=1, ignore_eos=True) == greedy


def test_logit_bias_and_stop_token_ids(client: OpenAI) -> None:
    request: dict[str, Any] = {"model": "tiny", "prompt": "a", "max_tokens": 3, "logit_bias": {"266": 100}}
    assert client.completions.create(**request).choices[0].text == "世界世界世界"
    stopped = client.completions.create(**request, extra_body={"stop_token_ids": [266]})
    assert (stopped.choices[0].text, stopped.choices[0].finish_reason) == ("", "stop")
    assert stopped.usage is not None
    assert stopped.usage.completion_tokens == 1


def test_stop_never_leaks(client: OpenAI) -> None:
    request: dict[str, Any] = {"model": "tiny", "prompt": "a", "max_tokens": 5, "logit_bias": {"266": 100}}
    for stop, expected in ((["界世"], "世"), ("世界世界", ""), (["nothing", "界"], "世")):
        plain = client.completions.create(**request, stop=stop).choices[0]
        assert (plain.text, plain.finish_reason) == (expected, "stop")
        streamed = [chunk.choices[0] for chunk in client.completions.create(**request, stop=stop, stream=True)]
        assert "".join(choice.text for choice in streamed) == expected
        assert streamed[-1].finish_reason == "stop"
    kept = client.completions.create(**request, stop=["世界" * 6]).choices[0]
    assert (kept.text, kept.finish_reason) == ("世界" * 5, "length")


def test_completion_logprobs(client: OpenAI, server: LiveServer) -> None:
    request: dict[str, Any] = {"model": "tiny", "prompt": "a", "seed": 1, "max_tokens": 40}
    plain = client.completions.create(**request, logprobs=3).choices[0]
    assert plain.logprobs is not None
    tokens, offsets = plain.logprobs.tokens, plain.logprobs.text_offset
    assert tokens is not None
    assert offsets is not None
    assert len(tokens) == len(offsets) == len(plain.logprobs.token_logprobs or []) == 40
    assert all(value <= 0 for value in plain.logprobs.token_logprobs or [])
    assert offsets[0] == 0
    assert offsets == sorted(offsets)
    for token, offset in zip(tokens, offsets, strict=True):
        assert token.startswith("bytes:") or plain.text[offset:].startswith(token)
    for token, top in zip(tokens, plain.logprobs.top_logprobs or [], strict=True):
        assert token in top
        assert 3 <= len(top) <= 4
    streamed = [chunk.choices[0].logprobs for chunk in client.completions.create(**request, logprobs=3, stream=True)]
    assert [token for part in streamed if part for token in part.tokens or []] == tokens
    assert [offset for part in streamed if part for offset in part.text_offset or []] == offsets
    chosen_only = client.completions.create(**request, logprobs=0).choices[0].logprobs
    assert chosen_only is not None
    assert (chosen_only.tokens, chosen_only.top_logprobs) == (tokens, None)


# --- chat


def test_chat(client: OpenAI) -> None:
    reply = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=10, seed=1)
    (choice,) = reply.choices
    assert reply.id.startswith("chatcmpl-")
    assert reply.object == "chat.completion"
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 10
    assert reply.usage.prompt_tokens_details is not None


def test_chat_stream(client: OpenAI) -> None:
    request: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_completion_tokens": 50, "seed": 4, "n": 2}
    plain = client.chat.completions.create(**request)
    chunks = list(client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}))
    assert [chunk.choices[0].delta.role for chunk in chunks[:2]] == ["assistant", "assistant"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == plain.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1
    for choice in plain.choices:
        mine = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert "".join(c.delta.content or "" for c in mine) == choice.message.content
        assert [c.finish_reason for c in mine][-1] == choice.finish_reason
        assert all(c.finish_reason is None for c in mine[:-1])


def test_chat_without_usage_has_no_usage_chunk(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=3, seed=1, stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "length"


def test_chat_stops_of_profile_and_user(client: OpenAI) -> None:
    newlines = client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=5, logit_bias={"261": 100}
    ).choices[0]
    assert (newlines.message.content, newlines.finish_reason) == ("", "stop")
    own = client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=5, logit_bias={"266": 100}, stop="界"
    ).choices[0]
    assert (own.message.content, own.finish_reason) == ("世", "stop")


def test_chat_content_parts_and_roles(client: OpenAI) -> None:
    parts: Any = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]},
    ]
    plain: Any = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hello"}]
    request: dict[str, Any] = {"model": "tiny", "seed": 2, "max_tokens": 12}
    first = client.chat.completions.create(messages=parts, **request)
    second = client.chat.completions.create(messages=plain, **request)
    assert first.choices[0].message == second.choices[0].message
    assert first.usage is not None
    assert second.usage is not None
    assert first.usage.prompt_tokens == second.usage.prompt_tokens


def test_chat_logprobs(client: OpenAI) -> None:
    request: dict[str, Any] = {"model": "tiny", "messages": HELLO, "seed": 1, "max_tokens": 30, "logprobs": True}
    plain = client.chat.completions.create(**request, top_logprobs=2).choices[0]
    assert plain.logprobs is not None
    content = plain.logprobs.content
    assert content is not None
    assert all(len(entry.top_logprobs) == 2 for entry in content)
    data = b"".join(bytes(entry.bytes or []) for entry in content)
    assert data.decode("utf-8", "replace") == plain.message.content
    streamed = client.chat.completions.create(**request, top_logprobs=2, stream=True)
    parts = [chunk.choices[0].logprobs for chunk in streamed]
    assert [entry for part in parts if part for entry in part.content or []] == content


async def test_many_at_once_equal_one_alone(aclient: AsyncOpenAI) -> None:
    async def answer(seed: int) -> str:
        stream = await aclient.chat.completions.create(
            model="tiny", messages=HELLO, seed=seed, max_tokens=20, stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    alone = [await answer(seed) for seed in range(4)]
    assert await asyncio.gather(*(answer(seed % 4) for seed in range(24))) == alone * 6


async def test_errors_are_those_of_the_client_library(aclient: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        await aclient.chat.completions.create(model="tiny", messages=HELLO, temperature=3)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.NotFoundError):
        await aclient.chat.completions.create(model="gpt-4", messages=HELLO)


# --- the OpenAPI document tells the truth


@pytest.mark.parametrize("extra", [{}, {"logprobs": 2}, {"logprobs": 0, "n": 2}, {"echo": True}])
def test_completion_replies_fit_the_document(server: LiveServer, extra: dict[str, Any]) -> None:
    body = {"prompt": "x", "max_tokens": 5, **extra}
    replies.CompletionReply.model_validate(raw(server, "completions", body))
    for chunk in raw(server, "completions", {**body, "stream": True, "stream_options": {"include_usage": True}}):
        replies.CompletionChunk.model_validate(chunk)


@pytest.mark.parametrize("extra", [{}, {"logprobs": True, "top_logprobs": 2}, {"logprobs": True, "n": 2}])
def test_chat_replies_fit_the_document(server: LiveServer, extra: dict[str, Any]) -> None:
    body = {"messages": HELLO, "max_tokens": 5, **extra}
    replies.ChatReply.model_validate(raw(server, "chat/completions", body))
    for chunk in raw(server, "chat/completions", {**body, "stream": True, "stream_options": {"include_usage": True}}):
        replies.ChatChunk.model_validate(chunk)


def test_lists_fit_the_document(server: LiveServer) -> None:
    replies.ModelList.model_validate(server.http.get("/v1/models").json())

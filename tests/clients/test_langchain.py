"""LangChain: its chat model and its completions model."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from langchain_core.callbacks import get_usage_metadata_callback
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, Field

from tests.clients.conftest import Server
from tests.clients.recipes import Recipe

QUESTION = "What is RWKV?"


def chat_model(server: Server, **settings: Any) -> ChatOpenAI:
    fields = {"model": "model", "temperature": 0, "max_tokens": 60, "max_retries": 0, **settings}
    return ChatOpenAI(base_url=server.base, api_key=server.key, **fields)


def test_recipe(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    names = Recipe("LangChain", server.url).run_python()
    assert "recurrent" in names["answer"].content
    assert names["answers"][0].content == names["answer"].content
    assert names["translations"] == [" 保存", " 打开"]
    tokens = len(names["token_ids"](QUESTION))
    assert 0 < tokens < names["answer"].usage_metadata["input_tokens"]
    assert capsys.readouterr().out.strip().endswith(str(tokens))


def test_streams_and_asynchronous_calls_say_the_same(server: Server) -> None:
    chat = chat_model(server)

    async def all_ways() -> list[str]:
        streamed = [chunk.content async for chunk in chat.astream(QUESTION)]
        batch = await chat.abatch([QUESTION] * 3)
        events = [
            event["data"]["chunk"].content
            async for event in chat.astream_events(QUESTION)
            if event["event"] == "on_chat_model_stream"
        ]
        whole = await chat.ainvoke(QUESTION)
        return ["".join(streamed), "".join(events), whole.content, *(answer.content for answer in batch)]

    answers = [chat.invoke(QUESTION).content, "".join(c.content for c in chat.stream(QUESTION))]
    assert {*answers, *asyncio.run(all_ways())} == {answers[0]}
    assert "recurrent" in answers[0]


def test_usage_is_the_same_streamed_and_whole(server: Server) -> None:
    chat = chat_model(server, max_tokens=7)
    with get_usage_metadata_callback() as whole:
        chat.invoke(QUESTION)
    with get_usage_metadata_callback() as streamed:
        list(chat.stream(QUESTION, stream_usage=True))
    assert whole.usage_metadata == streamed.usage_metadata
    (usage,) = whole.usage_metadata.values()
    assert usage["output_tokens"] == 7
    assert usage["total_tokens"] == usage["input_tokens"] + 7


def test_log_probabilities(server: Server) -> None:
    chat = chat_model(server, max_tokens=3, logprobs=True, top_logprobs=2)
    whole = chat.invoke(QUESTION).response_metadata["logprobs"]["content"]
    streamed = [
        token
        for chunk in chat.stream(QUESTION)
        for token in (chunk.response_metadata.get("logprobs") or {}).get("content", [])
    ]
    assert whole == streamed
    assert len(whole) == 3
    assert all(token["top_logprobs"][0]["logprob"] == token["logprob"] <= 0 for token in whole)


def test_several_answers_stop_and_seed(server: Server) -> None:
    chat = chat_model(server, n=2, seed=7, temperature=1, max_tokens=20, stop=["."])
    first, second = ([g.text for g in chat.generate([[HumanMessage(QUESTION)]]).generations[0]] for _ in range(2))
    assert first == second
    assert len(first) == 2
    assert "." not in "".join(first)


def test_responses(server: Server) -> None:
    chat = chat_model(server, use_responses_api=True)
    answer = chat.invoke([("system", "You are helpful."), ("human", QUESTION)])
    assert "recurrent" in answer.text
    assert answer.usage_metadata["output_tokens"] > 0
    streamed = list(chat.stream([("system", "You are helpful."), ("human", QUESTION)]))
    assert "".join(chunk.text for chunk in streamed) == answer.text
    assert [c.usage_metadata for c in streamed if c.usage_metadata] == [answer.usage_metadata]


def test_completions(server: Server) -> None:
    complete = OpenAI(base_url=server.base, api_key="none", model="model", temperature=0, max_tokens=4, logprobs=1)
    result = complete.generate(["English: Save\n\nChinese:", "English: Open\n\nChinese:"])
    assert [len(g[0].generation_info["logprobs"]["tokens"]) for g in result.generations] == [4, 4]
    assert result.llm_output["token_usage"]["completion_tokens"] == 8
    assert "".join(complete.stream("English: Save\n\nChinese:")) == result.generations[0][0].text


class Person(BaseModel):
    """A person."""

    name: str = Field(max_length=12)
    age: int


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(method: str, server: Server) -> None:
    structured = chat_model(server, max_tokens=200).with_structured_output(Person, method=method)
    assert isinstance(structured.invoke(QUESTION), Person)
    assert isinstance(list(structured.stream(QUESTION))[-1], Person)


def test_tools(server: Server) -> None:
    chat = chat_model(server, max_tokens=200).bind_tools([Person], tool_choice="required", parallel_tool_calls=False)
    called = chat.invoke(QUESTION)
    (call,) = called.tool_calls
    assert Person(**call["args"])
    streamed = list(chat.stream(QUESTION))
    whole = streamed[0]
    for chunk in streamed[1:]:
        whole += chunk
    assert [(c["name"], c["args"]) for c in whole.tool_calls] == [(call["name"], call["args"])]
    told = [HumanMessage(QUESTION), called, ToolMessage("known", tool_call_id=call["id"])]
    assert chat_model(server).invoke(told).content is not None


def test_errors(strict_server: Server) -> None:
    assert chat_model(strict_server).invoke("Hi").content
    with pytest.raises(ContextOverflowError):
        chat_model(strict_server).invoke("word " * 600)
    with pytest.raises(openai.NotFoundError):
        chat_model(strict_server, model="other").invoke("Hi")
    with pytest.raises(openai.AuthenticationError):
        chat_model(strict_server._replace(key="wrong")).invoke("Hi")

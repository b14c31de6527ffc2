"""LiteLLM: the library, and the load balancer that its proxy is made of."""

from __future__ import annotations

import asyncio
from typing import Any

import litellm
import pytest
import yaml

from tests.clients.conftest import Server
from tests.clients.recipes import Recipe

MESSAGES = [{"role": "user", "content": "What is RWKV?"}]
PREFIXES = ["openai", "hosted_vllm"]


def settings(server: Server, **changes: Any) -> dict[str, Any]:
    return {"api_base": server.base, "api_key": server.key, "temperature": 0, "max_tokens": 60, **changes}


def test_recipe(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    names = Recipe("LiteLLM", server.url).run_python()
    assert "recurrent" in names["answer"].choices[0].message.content
    assert names["translation"].choices[0].text == " 保存文件"
    assert "ingbeat" in capsys.readouterr().out


def test_proxy_configuration(server: Server) -> None:
    """The proxy hands its `model_list` to this router."""
    (shown,) = Recipe("LiteLLM", server.url).blocks("yaml")
    router = litellm.Router(**yaml.safe_load(shown))
    answer = router.completion("rwkv", MESSAGES, temperature=0)
    assert "recurrent" in answer.choices[0].message.content
    assert answer._hidden_params["response_cost"] == 0


@pytest.mark.parametrize("prefix", PREFIXES)
def test_all_ways_say_the_same(prefix: str, server: Server) -> None:
    model, fields = f"{prefix}/model", settings(server)
    usage = {"stream_options": {"include_usage": True}}

    async def asynchronous() -> list[str]:
        whole = await litellm.acompletion(model, MESSAGES, **fields)
        stream = await litellm.acompletion(model, MESSAGES, stream=True, **fields)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        return [whole.choices[0].message.content, "".join(pieces)]

    whole = litellm.completion(model, MESSAGES, **fields)
    chunks = list(litellm.completion(model, MESSAGES, stream=True, **usage, **fields))
    built = litellm.stream_chunk_builder(chunks)
    answers = [whole.choices[0].message.content, built.choices[0].message.content, *asyncio.run(asynchronous())]
    assert set(answers) == {answers[0]}
    assert "recurrent" in answers[0]
    counted = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert [built.usage[name] for name in counted] == [whole.usage[name] for name in counted]
    assert built.choices[0].finish_reason == whole.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("prefix", ["text-completion-openai", *PREFIXES])
def test_completions(prefix: str, server: Server) -> None:
    fields = {"model": f"{prefix}/model", **settings(server, max_tokens=4)}
    prompts = ["English: Save\n\nChinese:", "English: Open\n\nChinese:"]
    reply = litellm.text_completion(prompt=prompts, logprobs=1, **fields)
    assert [choice.text.strip()[:2] for choice in reply.choices] == ["保存", "打开"]
    assert [len(choice.logprobs.tokens) for choice in reply.choices] == [4, 4]
    streamed = litellm.text_completion(prompt=prompts[0], stream=True, **fields)
    assert "".join(chunk.choices[0].text or "" for chunk in streamed) == reply.choices[0].text


@pytest.mark.parametrize("prefix", PREFIXES)
def test_fields_beyond_openai_arrive(prefix: str, server: Server) -> None:
    def answers(**fields: Any) -> set[str]:
        return {
            litellm.completion(
                f"{prefix}/model", MESSAGES, **settings(server, temperature=2, seed=seed, max_tokens=8), **fields
            )
            .choices[0]
            .message.content
            for seed in range(5)
        }

    assert len(answers(top_k=1)) == 1
    assert len(answers()) > 1


@pytest.mark.parametrize("prefix", PREFIXES)
def test_errors(prefix: str, strict_server: Server) -> None:
    def ask(content: str = "Hi", model: str = "model", **changes: Any) -> None:
        messages = [{"role": "user", "content": content}]
        litellm.completion(f"{prefix}/{model}", messages, max_retries=0, **settings(strict_server, **changes))

    ask()
    with pytest.raises(litellm.ContextWindowExceededError):
        ask("word " * 600)
    with pytest.raises(litellm.AuthenticationError):
        ask(api_key="wrong")
    with pytest.raises(litellm.NotFoundError):
        ask(model="other")
    with pytest.raises(litellm.BadRequestError, match="must be at most 1"):
        ask(top_p=3)

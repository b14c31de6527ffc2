"""The fields beyond OpenAI's that say how tokens are drawn and when an answer may end."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.live import LiveServer
from wingbeat.sampling.params import SamplingParams
from wingbeat.server.dialects.openai_completions_schema import CompletionBody
from wingbeat.server.dialects.openai_sampling import sampling_params
from wingbeat.text.profile import PROFILES
from wingbeat.text.world import WorldTokenizer

BAD = {
    "sampler": ["best", 1],
    "sampler_order": ["other"],
    "tau": [-1, "3", 101],
    "rate": [-0.1, 1.5],
    "noise": [-1, "x"],
    "typical_p": [1.5, -1],
    "mirostat": [1, 3, True, "2"],
    "mirostat_tau": [-1],
    "mirostat_eta": [2],
    "penalty_decay": [0, 1.1, "1"],
    "half_life": [0, -5],
    "penalty_mode": ["sums"],
    "penalty_free_ids": [[10**7], [-1], ["a"], 5],
    "no_repeat_ids": [[10**7], [-1], 5],
    "global_penalty": ["yes", 1],
    "repetition_over": ["prompt"],
    "min_tokens": [-1, 1.5, "2", 4],  # there may be 3
    "bad_words": [5, [5], ["x" * 1001], ["x"] * 65],
    "skip_special_tokens": ["no", 0],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in BAD.items() for value in values])
@pytest.mark.parametrize("chat", [False, True])
def test_what_is_out_of_range_is_named(client: OpenAI, chat: bool, field: str, value: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        send(client, chat, **{field: value})
    assert caught.value.param is not None
    assert caught.value.param.split("[")[0] == field


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"sampler": "nucleus", "mirostat": 2}, "mirostat"),
        ({"sampler": "mirostat", "typical_p": 0.5}, "typical_p"),
        ({"mirostat": 2, "typical_p": 0.5}, "typical_p"),
        ({"sampler": "typical", "tau": 2}, "tau"),
    ],
)
def test_what_excludes_each_other(client: OpenAI, fields: dict[str, Any], named: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        send(client, False, **fields)
    assert caught.value.param == named


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, {}),
        ({"sampler": "typical"}, {"sampler": "typical", "tau": 0.5}),
        ({"typical_p": 0.9}, {"sampler": "typical", "tau": 0.9}),
        ({"typical_p": 1.0}, {}),
        ({"sampler": "mirostat", "rate": 0.2}, {"sampler": "mirostat", "tau": 3.0, "rate": 0.2}),
        (
            {"mirostat": 2, "mirostat_tau": 5, "mirostat_eta": 0.3},
            {"sampler": "mirostat", "tau": 5.0, "rate": 0.3},
        ),
        ({"mirostat": 0, "mirostat_tau": 5}, {}),
        ({"sampler": "noise"}, {"sampler": "noise", "noise": 1.5}),
        ({"sampler": "noise", "noise": 0}, {"sampler": "noise"}),
        ({"sampler_order": "rwkv", "penalty_decay": 0.996}, {"order": "rwkv", "penalty_decay": 0.996}),
        ({"half_life": 1}, {"penalty_decay": 0.5}),
        ({"half_life": 1, "penalty_decay": 0.9}, {"penalty_decay": 0.9}),
        (
            {"penalty_mode": "values", "penalty_free_ids": [5.0, 5], "no_repeat_ids": [6], "global_penalty": True},
            {"penalties": "values", "penalty_free": (5,), "no_repeat": (6,), "global_penalty": True},
        ),
        ({"repetition_over": "answer"}, {"repetition_over": "answer"}),
        ({"min_tokens": 2.0, "bad_words": ["a", "", "a"]}, {"min_tokens": 2, "bad_words": ("a",)}),
        ({"skip_special_tokens": False}, {"skip_special_tokens": False}),
        ({"skip_special_tokens": True, "bad_words": None}, {}),
    ],
)
def test_what_the_engine_is_asked(server: LiveServer, fields: dict[str, Any], wanted: dict[str, Any]) -> None:
    body = CompletionBody.model_validate({"prompt": "x", **fields})
    body.refuse_unsupported()
    asked = sampling_params(body, server.registry.models[0], 16, (), None)
    assert asked == SamplingParams(max_tokens=16, **wanted)


@pytest.mark.parametrize(
    "fields",
    [
        {"sampler": "typical", "tau": 0.3},
        {"sampler": "mirostat"},
        {"sampler": "mirostat_full", "min_p": 0.05, "temperature": 1.2},
        {"sampler": "noise"},
        {"sampler_order": "rwkv", "top_p": 0.5, "penalty_decay": 0.99, "presence_penalty": 0.2},
        {"sampler_order": "ai00", "top_k": 128, "top_p": 0.5, "penalty_mode": "values", "presence_penalty": 0.3},
        {"sampler_order": "joint", "top_k": 50, "top_p": 0.6, "frequency_penalty": 0.2, "global_penalty": True},
    ],
)
@pytest.mark.parametrize("chat", [False, True])
def test_every_sampler_answers_and_repeats_itself_by_its_seed(
    client: OpenAI, chat: bool, fields: dict[str, Any]
) -> None:
    first, second = (text_of(send(client, chat, max_tokens=12, seed=4, **fields)) for _ in range(2))
    assert first == second
    others = {text_of(send(client, chat, max_tokens=12, seed=seed, **fields)) for seed in range(5, 10)}
    assert len(others | {first}) > 1


def test_special_tokens_are_shown_where_that_is_wanted(client: OpenAI) -> None:
    ended = {"logit_bias": {"0": 100}, "ignore_eos": True, "max_tokens": 2}
    assert text_of(send(client, False, **ended)) == ""
    assert text_of(send(client, False, **ended, skip_special_tokens=False)) == "<|endoftext|>" * 2
    assert text_of(send(client, False, logit_bias={"0": 100}, skip_special_tokens=False)) == ""


def test_an_answer_is_as_long_as_it_must_be(client: OpenAI) -> None:
    stopping = {"logit_bias": {"0": 100}, "max_tokens": 12}
    assert send(client, False, **stopping).usage.completion_tokens == 1
    longer = send(client, False, **stopping, min_tokens=7)
    assert (longer.usage.completion_tokens, longer.choices[0].finish_reason) == (8, "stop")


def test_the_prompt_may_count_for_the_penalties(client: OpenAI, tokenizer: WorldTokenizer) -> None:
    wing, beat = (tokenizer.encode(text)[0] for text in ("wing", "beat"))
    asked = {"prompt": "wing", "logit_bias": {str(wing): 100, str(beat): 97}, "frequency_penalty": 2, "max_tokens": 3}
    assert text_of(send(client, False, temperature=0, **asked)) == "wingwingbeat"
    # The prompt's own counts from the second token on.
    assert text_of(send(client, False, temperature=0, global_penalty=True, **asked)) == "wingbeatwing"


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_ends_with_its_budget(
    server: LiveServer, client: OpenAI, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr(server.registry.models[0], "_profile", PROFILES["g1"])
    reply = send(
        *(client, True),
        reasoning_effort="medium",
        thinking_budget=5,
        max_tokens=40,
        ignore_eos=True,
        seed=3,
        stream=stream,
        stream_options={"include_usage": True} if stream else None,
    )
    if stream:
        chunks = list(reply)
        usage = chunks[-1].usage
        deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
        reasoning = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
        content = "".join(delta.content or "" for delta in deltas)
    else:
        usage, message = reply.usage, reply.choices[0].message
        reasoning, content = getattr(message, "reasoning_content", None), message.content
    closing = len(server.registry.models[0].tokenizer.encode("\n</think>"))
    assert usage.completion_tokens_details.reasoning_tokens == 5 + closing
    assert reasoning
    assert "think" not in content
    assert content


def test_a_budget_of_nothing_is_no_reasoning(
    server: LiveServer, client: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.registry.models[0], "_profile", PROFILES["g1"])
    asked = {"max_tokens": 8, "seed": 3, "ignore_eos": True}
    assert text_of(send(client, True, thinking_budget=0, **asked)) == text_of(
        send(client, True, enable_thinking=False, **asked)
    )


def send(client: OpenAI, chat: bool, **fields: Any) -> Any:
    """Fields that the package does not know go along as they are."""
    body = {"max_tokens": 3, **fields}
    known = {name: body.pop(name) for name in ("stream", "stream_options") if body.get(name) is not None}
    if chat:
        body.setdefault("messages", [{"role": "user", "content": "hello"}])
        return client.chat.completions.create(model="model", messages=body.pop("messages"), extra_body=body, **known)
    return client.completions.create(model="model", prompt=body.pop("prompt", "x"), extra_body=body, **known)


def text_of(reply: Any) -> str:
    choice = reply.choices[0]
    return choice.message.content if hasattr(choice, "message") else choice.text

"""rwkv_lightning's fields in OpenAI's form: what they do is what OpenAI's fields for the same do."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from openai import OpenAI

from tests.conformance.lightning import post
from tests.live import LiveServer
from wingbeat.sampling.params import SamplingParams
from wingbeat.server.dialects.lightning_chat import LightningChats
from wingbeat.server.dialects.lightning_chat_schema import LightningChatBody
from wingbeat.text.profile import PROFILES

PATHS = [f"/{prefix}/chat/completions" for prefix in ("openai/v1", "v1", "v2", "v3")]
OWN = PATHS[0]
HELLO = [{"role": "user", "content": "Hello there"}]
GREEDY = {"temperature": 0, "max_tokens": 12}


def answer(server: LiveServer, path: str, **body: Any) -> dict[str, Any]:
    return post(server, path, body)["choices"][0]["message"]


def drawn(server: LiveServer, **fields: Any) -> SamplingParams:
    body = LightningChatBody.model_validate({"messages": HELLO, **fields})
    return LightningChats().sampling(body, server.registry.models[0])


def told(server: LiveServer, path: str = OWN, **body: Any) -> tuple[str, int]:
    """What the model answers to a prompt, and how long that was: equal for prompts that are."""
    reply = post(server, path, {**body, **GREEDY, "alpha_presence": 0, "alpha_frequency": 0})
    return reply["choices"][0]["message"]["content"], reply["usage"]["prompt_tokens"]


@pytest.mark.parametrize("path", PATHS)
def test_the_system_has_a_field(server: LiveServer, path: str) -> None:
    as_message = told(server, path, messages=[{"role": "system", "content": "Be brief."}, *HELLO])
    assert told(server, path, messages=HELLO, system="Be brief.") == as_message
    both = told(server, path, messages=[{"role": "developer", "content": "Rhyme."}, *HELLO], system="Be brief.")
    assert both == told(server, path, messages=[{"role": "system", "content": "Be brief.\nRhyme."}, *HELLO])


def test_contents_are_one_more_turn(server: LiveServer) -> None:
    turns = [*HELLO, {"role": "assistant", "content": "Hi."}]
    whole = told(server, messages=[*turns, {"role": "user", "content": "And now?"}])
    assert told(server, messages=turns, contents=["And now?"]) == whole
    assert told(server, contents=["Hello there"]) == told(server, messages=HELLO)
    assert told(server, contents="Hello there") == told(server, messages=HELLO)
    assert told(server, messages=HELLO, contents=[]) == told(server, messages=HELLO)
    reply = server.http.post(OWN, json={"contents": ["a", "b"]})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "contents")


def test_stop_tokens_are_ids_and_texts(server: LiveServer) -> None:
    first = answer(server, OWN, messages=HELLO, **GREEDY)["content"]
    assert len(first) > 3
    for stops in ([first[2:]], first[2:], [0, 2**40, -3, first[2:]]):
        assert answer(server, OWN, messages=HELLO, top_k=1, stop_tokens=stops, alpha_presence=0)["content"] == first[:2]
    assert drawn(server, stop_tokens=[0, 7, 2**40, "x"], stop="y").stop_token_ids == (0, 7)
    assert drawn(server, stop_tokens=["x"], stop="y").stop[-2:] == ("y", "x")


def test_its_fields_bring_its_defaults(server: LiveServer) -> None:
    newest = {"top_k": 20, "top_p": 0.6, "order": "joint", "penalties": "values", "penalty_decay": 0.996}
    for field in ({"alpha_presence": 2}, {"system": "x"}, {"enable_think": False}, {"stop_tokens": []}):
        asked = msgspec.structs.asdict(drawn(server, **field))
        want = {**newest, "presence_penalty": field.get("alpha_presence", 1.0), "frequency_penalty": 0.1}
        assert asked.items() >= {**want, "max_tokens": 4096}.items()
    given = {"top_k": 3, "top_p": 0.5, "presence_penalty": 0.2, "frequency_penalty": 0.3, "max_tokens": 9}
    mixed = msgspec.structs.asdict(drawn(server, alpha_decay=0.9, **given))
    assert mixed.items() >= {**given, "penalty_decay": 0.9, "order": "joint"}.items()
    assert drawn(server, half_life=1, system="x").penalty_decay == 0.5


def test_without_its_fields_openai_s_defaults_hold(server: LiveServer) -> None:
    asked = drawn(server)
    assert (asked.top_p, asked.presence_penalty, asked.max_tokens, asked.order) == (1.0, 0.0, None, "standard")


def test_presence_zero_leaves_frequency_its_effect(server: LiveServer) -> None:
    """K4, in this form too."""
    fields = {"messages": HELLO, "top_k": 1, "max_tokens": 40, "alpha_presence": 0, "ignore_eos": True}
    weak = answer(server, OWN, **fields, alpha_frequency=0)
    assert answer(server, OWN, **fields, alpha_frequency=50) != weak


@pytest.mark.parametrize(
    ("own", "openai_s"),
    [
        ({}, {"enable_thinking": False}),
        ({"enable_think": False}, {"enable_thinking": False}),
        ({"enable_think": True}, {"enable_thinking": True}),
        ({"think": True}, {"enable_thinking": True}),
        ({"think_type": "fast"}, {"enable_thinking": False}),
        ({"think_type": "free"}, {"enable_thinking": True}),
        ({"think_type": "enShort"}, {"reasoning_effort": "low"}),
        ({"think_type": "enLong"}, {"reasoning_effort": "high"}),
        ({"enable_think": True, "enable_thinking": False}, {"enable_thinking": False}),
    ],
)
def test_how_to_reason(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, own: dict[str, Any], openai_s: dict[str, Any]
) -> None:
    monkeypatch.setattr(server.registry.models[0], "_profile", PROFILES["g1"])
    assert told(server, messages=HELLO, **own) == told(server, messages=HELLO, **openai_s)


def test_reasoning_in_a_language(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt is longer by what it says of that, and the reasoning is told apart as ever (K15)."""
    monkeypatch.setattr(server.registry.models[0], "_profile", PROFILES["g1"])
    tokens = server.registry.models[0].tokens_of
    free = told(server, messages=HELLO, think_type="free")[1]
    assert told(server, messages=HELLO, think_type="en")[1] == free + tokens(" (think)")
    longer = tokens(" <think>嗯") - tokens(" <think")
    assert told(server, messages=HELLO, think_type="preferChinese")[1] == free + longer
    said = answer(server, OWN, messages=HELLO, think_type="preferChinese", max_tokens=60, thinking_budget=5)
    assert said["reasoning_content"]
    assert "think>" not in said["content"] + said["reasoning_content"]


def test_pieces_of_so_many_tokens(server: LiveServer) -> None:
    asked = {"messages": HELLO, "max_tokens": 20, "seed": 4, "ignore_eos": True, "stream": True, "n": 2, "top_k": 0}
    whole = post(server, OWN, {**asked, "stream": False, "chunk_size": 8})
    said = streamed(server, {**asked, "chunk_size": 8, "stream_options": {"include_usage": True}})
    for index in (0, 1):
        pieces = [c for event in said for c in event["choices"] if c["index"] == index and c["delta"].get("content")]
        assert len(pieces) <= 3
        assert "".join(c["delta"]["content"] for c in pieces) == whole["choices"][index]["message"]["content"]
    assert said[-1]["usage"] == whole["usage"]
    assert len(streamed(server, {**asked, "chunk_size": 0})) > len(said)


def test_no_prefix_cache(server: LiveServer) -> None:
    long = [{"role": "user", "content": "the wing " * 200}]
    body = {"messages": long, "max_tokens": 1, "use_prefix_cache": False}
    for _ in range(2):
        assert post(server, OWN, body)["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_an_unmodified_openai_client(server: LiveServer) -> None:
    with OpenAI(base_url=f"{server.url}/openai/v1", api_key="unused", max_retries=0) as client:
        own = {"alpha_presence": 0.5, "alpha_decay": 0.99, "system": "x", "chunk_size": 4, "stop_tokens": [0]}
        asked: dict[str, Any] = {"model": "rwkv7", "messages": HELLO, "max_tokens": 12, "seed": 1, "extra_body": own}
        whole = client.chat.completions.create(**asked).choices[0].message.content
        said = client.chat.completions.create(**asked, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in said) == whole


@pytest.mark.parametrize(
    ("field", "value"),
    [("think_type", "slow"), ("alpha_decay", 0), ("stop_tokens", [True]), ("chunk_size", "x"), ("system", ["x"])],
)
def test_errors_have_openai_s_shape(server: LiveServer, field: str, value: Any) -> None:
    for path in PATHS:
        reply = server.http.post(path, json={"messages": HELLO, field: value})
        assert reply.status_code == 400
        assert reply.json()["error"]["param"].startswith(field)


def streamed(server: LiveServer, body: dict[str, Any]) -> list[dict[str, Any]]:
    lines = server.http.post(OWN, json=body).text.strip().split("\n\n")
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]

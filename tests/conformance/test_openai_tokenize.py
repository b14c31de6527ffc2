"""/tokenize, /detokenize and /tokenizer_info in the shapes that users of vLLM and llama.cpp know."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.live import VOCAB, LiveServer
from wingbeat.server.dialects import openai_tokenize_schema as replies
from wingbeat.text.profile import PROFILES
from wingbeat.text.world import WorldTokenizer

MESSAGES = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "the wing"}]
TOOL = {"type": "function", "function": {"name": "look", "description": "Looks."}}


@pytest.fixture
def tokenizer(server: LiveServer) -> WorldTokenizer:
    known = server.registry.models[0].tokenizer
    assert known is not None
    return known


def ask(server: LiveServer, path: str, **body: Any) -> Any:
    reply = server.http.post(path, json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


@pytest.mark.parametrize("prefix", ["", "/v1", "/openai/v1"])
def test_as_vllm(server: LiveServer, tokenizer: WorldTokenizer, prefix: str) -> None:
    ids = tokenizer.encode("the wing世")
    plain = ask(server, f"{prefix}/tokenize", model="tiny", prompt="the wing世", add_special_tokens=True)
    limit = server.registry.models[0].max_prompt_tokens
    assert plain == {"count": len(ids), "max_model_len": limit, "tokens": ids, "token_strs": None}
    named = ask(server, f"{prefix}/tokenize", prompt="the wing世", return_token_strs=True)
    assert named["token_strs"] == ["the ", "wing", "bytes:\\xe4", "bytes:\\xb8", "bytes:\\x96"]
    assert ask(server, f"{prefix}/detokenize", model="tiny", tokens=ids)["prompt"] == "the wing世"
    info = server.http.get(f"{prefix}/tokenizer_info").json()
    assert (info["eos_token"], info["bos_token"], info["vocab_size"]) == ("<|endoftext|>", None, VOCAB)


@pytest.mark.parametrize(
    ("extra", "segments"),
    [
        ({}, ["Assistant:"]),
        ({"add_generation_prompt": True}, ["Assistant:"]),
        ({"add_generation_prompt": False}, []),
    ],
)
def test_conversations_as_vllm(
    server: LiveServer, tokenizer: WorldTokenizer, extra: dict[str, Any], segments: list[str]
) -> None:
    turns = ["System:", " Be kind.", "\n\n", "User:", " the wing", "\n\n"]
    reply = ask(server, "/tokenize", messages=MESSAGES, **extra)
    assert reply["tokens"] == tokenizer.encode_segments([*turns, *segments])


def test_a_conversation_has_the_tokens_that_a_chat_counts(server: LiveServer) -> None:
    for extra in ({}, {"continue_final_message": True}):
        messages = [*MESSAGES, {"role": "assistant", "content": "beat"}]
        chat = ask(server, "/v1/chat/completions", messages=messages, max_tokens=1, **extra)
        assert ask(server, "/tokenize", messages=messages, **extra)["count"] == chat["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    "switch",
    [
        {},
        {"reasoning_effort": "none"},
        {"reasoning_effort": "high"},
        {"enable_thinking": True},
        {"enable_thinking": False, "reasoning_effort": "high"},
        {"chat_template_kwargs": {"enable_thinking": True}},
    ],
)
def test_and_those_of_a_chat_that_reasons(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, switch: dict[str, Any]
) -> None:
    monkeypatch.setattr(server.registry.models[0], "_profile", PROFILES["g1"])
    chat = ask(server, "/v1/chat/completions", messages=MESSAGES, max_tokens=1, **switch)
    assert ask(server, "/tokenize", messages=MESSAGES, **switch)["count"] == chat["usage"]["prompt_tokens"]
    turns = ask(server, "/tokenize", messages=MESSAGES, add_generation_prompt=False)
    assert ask(server, "/tokenize", messages=MESSAGES, add_generation_prompt=False, **switch) == turns


def test_as_llama_cpp(server: LiveServer, tokenizer: WorldTokenizer) -> None:
    ids = tokenizer.encode("wingáé")
    assert ask(server, "/tokenize", content="wingáé", add_special=True) == {"tokens": ids}
    pieces = ask(server, "/tokenize", content="wingáé", with_pieces=True)["tokens"]
    assert [piece["id"] for piece in pieces] == ids
    assert [piece["piece"] for piece in pieces] == ["wing", [0xC3], [0xA1], "é"]
    assert ask(server, "/detokenize", tokens=ids) == {"prompt": "wingáé", "content": "wingáé"}
    assert ask(server, "/tokenize", content=["wing", 266, "beat"])["tokens"] == [*tokenizer.encode("wing"), 266, 264]
    assert ask(server, "/tokenize", content="") == {"tokens": []}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"tool_choice": "none"},
        {"tool_choice": "required"},
        {"chat_template_kwargs": {"tool_prompt": "You have {tools}."}},
        {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "x"}]},
    ],
)
def test_tools_are_told_as_in_a_chat(server: LiveServer, more: dict[str, Any]) -> None:
    asked = {"messages": MESSAGES, "tools": [TOOL], **more}
    count = ask(server, "/tokenize", **asked)["count"]
    assert count == ask(server, "/v1/chat/completions", max_tokens=1, **asked)["usage"]["prompt_tokens"]
    without = ask(server, "/tokenize", **{**asked, "tools": None, "tool_choice": None})["count"]
    assert (count > without) == (more.get("tool_choice") != "none")


def test_the_end_of_text_by_its_name(server: LiveServer, tokenizer: WorldTokenizer) -> None:
    name = "<|endoftext|>"
    assert ask(server, "/tokenize", prompt=name, return_token_strs=True)["token_strs"] == [name]
    assert ask(server, "/tokenize", content=[name, "wing"], with_pieces=True)["tokens"][0] == {"id": 0, "piece": name}
    assert ask(server, "/detokenize", tokens=[0])["prompt"] == name
    assert ask(server, "/tokenize", prompt=name + "x")["tokens"] == tokenizer.encode(name + "x")


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_texts_come_back_exactly(server: LiveServer, text: str) -> None:
    tokens = ask(server, "/tokenize", prompt=text)["tokens"]
    assert ask(server, "/tokenize", content=text)["tokens"] == tokens
    assert ask(server, "/detokenize", tokens=tokens)["content"] == text


def test_the_tokens_are_those_of_a_completion(server: LiveServer) -> None:
    for prompt in ("the wingbeat", " \n\n世", "User: x"):
        tokens = ask(server, "/tokenize", prompt=prompt)["tokens"]
        scored = {"max_tokens": 0, "echo": True, "logprobs": 0}
        by_text = ask(server, "/v1/completions", prompt=prompt, **scored)["choices"]
        by_ids = ask(server, "/v1/completions", prompt=tokens, **scored)["choices"]
        assert by_text == by_ids


def test_large_texts(server: LiveServer, tokenizer: WorldTokenizer) -> None:
    text = "the wingbeat " * 10_000
    assert ask(server, "/tokenize", prompt=text)["tokens"] == tokenizer.encode(text)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": None}, "prompt"),
        ("/tokenize", {"prompt": ["x"]}, "prompt"),
        ("/tokenize", {"prompt": "x", "content": "x"}, "content"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": [{"role": "user"}]}, "messages[0].content"),
        ("/tokenize", {"messages": MESSAGES, "chat_template": "{{ x }}"}, "chat_template"),
        ("/tokenize", {"messages": MESSAGES, "tools": [{"type": "function"}]}, "tools[0].function"),
        ("/tokenize", {"messages": MESSAGES, "tools": [TOOL, TOOL]}, "tools"),
        ("/tokenize", {"messages": MESSAGES, "tool_choice": "required"}, "tool_choice"),
        ("/tokenize", {"messages": MESSAGES, "continue_final_message": True}, "continue_final_message"),
        ("/tokenize", {"content": {"a": 1}}, "content"),
        ("/tokenize", {"content": [True]}, "content"),
        ("/tokenize", {"content": [VOCAB]}, "content"),
        ("/tokenize", {"content": "x", "with_pieces": "yes"}, "with_pieces"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": ["x"]}, "tokens[0]"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": [VOCAB]}, "tokens"),
        ("/detokenize", {"tokens": [10**30]}, "tokens"),
    ],
)
def test_refusals(server: LiveServer, path: str, body: dict[str, Any], param: str) -> None:
    reply = server.http.post(path, json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param), reply.text


def test_other_models(server: LiveServer) -> None:
    assert server.http.post("/tokenize", json={"prompt": "x", "model": "gpt-4"}).status_code == 404
    assert server.http.post("/detokenize", json={"tokens": [5], "model": "rwkv"}).status_code == 200


def test_replies_fit_the_document(server: LiveServer) -> None:
    replies.TokenizeReply.model_validate(ask(server, "/tokenize", prompt="x", return_token_strs=True))
    replies.ContentTokens.model_validate(ask(server, "/tokenize", content="xá", with_pieces=True))
    replies.DetokenizeReply.model_validate(ask(server, "/detokenize", tokens=[]))
    replies.TokenizerInfo.model_validate(server.http.get("/tokenizer_info").json())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"prompt": "the wing"}),
        ("/tokenize", {"messages": MESSAGES}),
        ("/tokenize", {"content": ["the ", 5, 6], "with_pieces": True}),
        ("/detokenize", {"tokens": [5, 6]}),
    ],
)
def test_more_tokens_than_a_request_may_have_are_refused(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> None:
    monkeypatch.setattr(server.registry.models[0], "max_prompt_tokens", 1)
    reply = server.http.post(path, json=body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert reply.json()["error"]["param"] in body

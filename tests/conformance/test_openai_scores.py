"""Log-probabilities of prompts (`echo` with `logprobs`) and the best of several answers, held against single tokens."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.live import LiveServer
from wingbeat.server.dialects import openai_replies as replies
from wingbeat.text.world import WorldTokenizer

PROMPT = "the wing世 User: é"


def complete(client: OpenAI, **body: Any) -> Any:
    return client.completions.create(**{"model": "tiny", "temperature": 0, **body})


def single(client: OpenAI, ids: list[int], token: int, logprobs: int) -> tuple[float, dict[str, float]]:
    """What the model thinks of one token after others: it is forced by a bias, which log-probabilities do not know."""
    forced = complete(client, prompt=ids, max_tokens=1, logprobs=logprobs, logit_bias={str(token): 100})
    shown = forced.choices[0].logprobs
    return shown.token_logprobs[0], shown.top_logprobs[0] if logprobs else {}


@pytest.mark.parametrize("as_ids", [False, True])
@pytest.mark.parametrize("max_tokens", [0, 1, 5])
def test_an_echoed_prompt_is_scored(client: OpenAI, tokenizer: WorldTokenizer, as_ids: bool, max_tokens: int) -> None:
    ids = tokenizer.encode(PROMPT)
    body = {"prompt": ids if as_ids else PROMPT, "max_tokens": max_tokens, "logprobs": 2}
    choice = complete(client, echo=True, **body).choices[0]
    plain = complete(client, **body).choices[0]
    shown = choice.logprobs
    assert choice.text == PROMPT + plain.text
    assert len(shown.tokens) == len(shown.token_logprobs) == len(shown.top_logprobs) == len(ids) + max_tokens
    assert (shown.token_logprobs[0], shown.top_logprobs[0]) == (None, None)
    for place in range(1, len(ids)):
        logprob, top = single(client, ids[:place], ids[place], 2)
        assert shown.token_logprobs[place] == pytest.approx(logprob, abs=1e-5)
        assert shown.top_logprobs[place] == pytest.approx(top, abs=1e-5)
    assert shown.tokens[len(ids) :] == plain.logprobs.tokens
    assert shown.token_logprobs[len(ids) :] == plain.logprobs.token_logprobs
    assert shown.text_offset[len(ids) :] == [len(PROMPT) + offset for offset in plain.logprobs.text_offset]
    for token, offset in zip(shown.tokens, shown.text_offset, strict=True):
        assert token.startswith("bytes:") or choice.text[offset:].startswith(token)


@pytest.mark.parametrize("max_tokens", [0, 6])
@pytest.mark.parametrize("logprobs", [0, 1])
def test_prompts_and_answers_of_one_request(client: OpenAI, max_tokens: int, logprobs: int) -> None:
    """Each choice is what it would be alone, streamed and whole."""
    body = {"max_tokens": max_tokens, "logprobs": logprobs, "echo": True, "n": 3, "seed": 4, "temperature": 1}
    prompts = ["the wing", "世界", "", "User: beat beat"]
    together = complete(client, prompt=prompts, **body)
    assert [choice.index for choice in together.choices] == list(range(12))
    for place, prompt in enumerate(prompts):
        alone = complete(client, prompt=prompt, **body)
        mine = together.choices[3 * place : 3 * place + 3]
        assert [(c.text, c.logprobs, c.finish_reason) for c in alone.choices] == [
            (c.text, c.logprobs, c.finish_reason) for c in mine
        ]
    assert (together.choices[0].logprobs.top_logprobs is None) == (logprobs == 0)

    streamed: dict[int, list[Any]] = {}
    stream = complete(client, prompt=prompts, stream=True, stream_options={"include_usage": True}, **body)
    for chunk in stream:
        for choice in chunk.choices:
            streamed.setdefault(choice.index, []).append(choice)
    assert chunk.usage == together.usage
    for index, parts in streamed.items():
        whole = together.choices[index]
        assert "".join(part.text for part in parts) == whole.text
        for field in ("tokens", "token_logprobs", "text_offset"):
            joined = [item for part in parts if part.logprobs for item in getattr(part.logprobs, field)]
            assert joined == getattr(whole.logprobs, field)
        assert [part.finish_reason for part in parts] == [None] * (len(parts) - 1) + [whole.finish_reason]


def test_a_prompt_of_no_tokens_has_no_scores(client: OpenAI) -> None:
    choice = complete(client, prompt="", max_tokens=0, echo=True, logprobs=1).choices[0]
    assert (choice.text, choice.logprobs.tokens, choice.logprobs.token_logprobs) == ("", [], [])


def test_the_token_that_ends_the_text_is_counted(client: OpenAI, tokenizer: WorldTokenizer) -> None:
    """Evaluations drop the last entry, which must not be one of the prompt's."""
    body = {"prompt": "the wing", "echo": True, "logprobs": 1, "max_tokens": 1}
    for extra in ({"logit_bias": {"0": 100}}, {"logit_bias": {"266": 100}, "extra_body": {"stop_token_ids": [266]}}):
        choice = complete(client, **body, **extra).choices[0]
        assert (choice.text, choice.finish_reason) == ("the wing", "stop")
        assert len(choice.logprobs.tokens) == len(tokenizer.encode("the wing")) + 1
        assert choice.logprobs.tokens[-1] in ("<|endoftext|>", "世界")


def test_tokens_of_a_stop_text_are_left_out(client: OpenAI) -> None:
    body = {"prompt": "the wing", "echo": True, "logprobs": 1, "max_tokens": 5, "logit_bias": {"266": 100}}
    choice = complete(client, **body, stop="界世").choices[0]
    assert (choice.text, choice.logprobs.tokens) == ("the wing世", ["the ", "wing", "世界"])


def test_impossible_tokens_have_a_number(client: OpenAI) -> None:
    """Ids that the vocabulary lacks are never predicted."""
    shown = complete(client, prompt=[5, 258, 299, 5], max_tokens=0, echo=True, logprobs=1).choices[0].logprobs
    assert shown.tokens[1] == "token_id:258"
    assert all(-9999.0 <= value <= 0 for value in shown.token_logprobs[1:])


def test_a_long_prompt(client: OpenAI, tokenizer: WorldTokenizer) -> None:
    text = "the wingbeat " * 3_000
    shown = complete(client, prompt=text, max_tokens=0, echo=True, logprobs=1).choices[0].logprobs
    assert "".join(shown.tokens) == text
    assert shown.text_offset[-1] + len(shown.tokens[-1]) == len(text)


def test_only_so_many_tokens_are_scored(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="at most 100000 of one request") as caught:
        complete(client, prompt=[[5] * 60_000] * 2, max_tokens=0, echo=True, logprobs=1)
    assert caught.value.param == "prompt"


@pytest.mark.parametrize("extra", [{"echo": True, "logprobs": 2}, {"echo": True, "logprobs": 0, "n": 2}])
def test_replies_fit_the_document(server: LiveServer, extra: dict[str, Any]) -> None:
    body = {"prompt": ["x", "", "the wing"], "max_tokens": 2, **extra}
    replies.CompletionReply.model_validate(server.http.post("/v1/completions", json=body).json())


# --- prompt_logprobs


def prompt_logprobs(server: LiveServer, path: str, wanted: int | None, **body: Any) -> Any:
    reply = server.http.post(path, json={"max_tokens": 1, "temperature": 0, "prompt_logprobs": wanted, **body})
    assert reply.status_code == 200, reply.text
    whole = reply.json()
    kind = replies.ChatReply if "chat" in path else replies.CompletionReply
    kind.model_validate(whole)
    return whole["prompt_logprobs"] if "chat" in path else [c["prompt_logprobs"] for c in whole["choices"]]


def check_entries(server: LiveServer, entries: list[Any], ids: list[int], wanted: int) -> None:
    """vLLM's shape, with the values that `echo` shows."""
    with OpenAI(base_url=f"{server.url}/v1", api_key="unused") as client:
        shown = complete(client, prompt=ids, max_tokens=0, echo=True, logprobs=20).choices[0].logprobs
    assert entries[0] is None
    assert len(entries) == len(ids)
    for place, entry in enumerate(entries[1:], start=1):
        own = entry[str(ids[place])]
        assert next(iter(entry)) == str(ids[place])
        assert (own["decoded_token"], own["logprob"]) == (shown.tokens[place], shown.token_logprobs[place])
        likely = list(shown.top_logprobs[place].items())[:wanted]
        others = sorted((e for token, e in entry.items() if token != str(ids[place])), key=lambda e: e["rank"])
        found = sorted([*others, own], key=lambda e: e["rank"])[:wanted]
        assert [(e["decoded_token"], e["logprob"]) for e in found] == likely
        assert [e["rank"] for e in found] == list(range(1, wanted + 1))
        assert len(entry) == wanted + (own["rank"] > wanted)
        better = sum(value > own["logprob"] for value in shown.top_logprobs[place].values())
        assert own["rank"] == better + 1 or better >= 20


@pytest.mark.parametrize("wanted", [0, 1, 5])
def test_prompt_logprobs_of_completions(server: LiveServer, tokenizer: WorldTokenizer, wanted: int) -> None:
    prompts = [PROMPT, "", "the wing"]
    every = prompt_logprobs(server, "/v1/completions", wanted, prompt=prompts, n=2)
    assert [len(entries) for entries in every] == [n for prompt in prompts for n in [len(tokenizer.encode(prompt))] * 2]
    assert every[::2] == every[1::2]
    for prompt, entries in zip(prompts, every[::2], strict=True):
        if prompt:
            check_entries(server, entries, tokenizer.encode(prompt), wanted)


@pytest.mark.parametrize(("logprobs", "wanted"), [(0, 3), (3, 1)])
def test_prompt_logprobs_beside_echo(server: LiveServer, logprobs: int, wanted: int) -> None:
    """Each has as many alternatives as it would have alone."""
    body = {"prompt": PROMPT, "max_tokens": 2, "echo": True, "logprobs": logprobs, "temperature": 0}
    both = server.http.post("/v1/completions", json={**body, "prompt_logprobs": wanted}).json()["choices"][0]
    plain = server.http.post("/v1/completions", json=body).json()["choices"][0]
    assert "prompt_logprobs" not in plain
    assert [both.pop("prompt_logprobs")] == prompt_logprobs(server, "/v1/completions", wanted, prompt=PROMPT)
    assert both == plain


def test_prompt_logprobs_of_a_chat(server: LiveServer) -> None:
    messages = [{"role": "user", "content": "the wing"}]
    ids = server.http.post("/tokenize", json={"messages": messages}).json()["tokens"]
    for more in ({}, {"n": 2}, {"n": 1, "best_of": 3}):
        entries = prompt_logprobs(server, "/v1/chat/completions", 2, messages=messages, **more)
        check_entries(server, entries, ids, 2)
    plain = server.http.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 1}).json()
    assert "prompt_logprobs" not in plain


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("more", [{"stream": True}, {"session_id": "s"}])
def test_prompt_logprobs_come_with_whole_replies_to_whole_prompts(
    server: LiveServer, path: str, more: dict[str, Any]
) -> None:
    body = {"prompt": "x", "messages": [{"role": "user", "content": "x"}], "prompt_logprobs": 0, **more}
    reply = server.http.post(path, json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "prompt_logprobs")


def test_prompt_logprobs_of_only_so_many_tokens(server: LiveServer) -> None:
    for path, param, body in (
        ("/v1/completions", "prompt", {"prompt": [5] * 60_000, "n": 2}),
        ("/v1/chat/completions", "messages", {"messages": [{"role": "user", "content": "wing " * 60_000}]}),
    ):
        reply = server.http.post(path, json={"max_tokens": 1, "prompt_logprobs": 1, **body})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
        assert "at most 100000 of one request" in reply.json()["error"]["message"]


# --- best_of


def means(choices: list[Any]) -> list[float]:
    return [sum(c.logprobs.token_logprobs) / len(c.logprobs.token_logprobs) for c in choices]


@pytest.mark.parametrize("echo", [False, True])
def test_the_best_of_several_answers(client: OpenAI, echo: bool) -> None:
    body = {"prompt": ["the ", "世"], "max_tokens": 8, "seed": 9, "temperature": 1}
    every = complete(client, **body, n=6, logprobs=1)
    best = complete(client, **body, n=2, best_of=6, echo=echo)
    assert [choice.index for choice in best.choices] == [0, 1, 2, 3]
    for place, prompt in enumerate(body["prompt"]):
        rows = every.choices[6 * place : 6 * place + 6]
        ranked = [row for _, row in sorted(zip(means(rows), rows, strict=True), key=lambda pair: -pair[0])]
        wanted = [(prompt if echo else "") + row.text for row in ranked[:2]]
        assert [choice.text for choice in best.choices[2 * place : 2 * place + 2]] == wanted
    assert all(choice.logprobs is None for choice in best.choices)
    assert best.usage == every.usage


def test_the_best_answers_may_be_explained(client: OpenAI) -> None:
    best = complete(client, prompt="the ", max_tokens=8, seed=9, temperature=1, n=2, best_of=4, logprobs=2, echo=True)
    for choice in best.choices:
        assert choice.logprobs.tokens[0] == "the "
        assert len(choice.logprobs.tokens) == 9


def test_as_many_as_are_given_keep_their_order(client: OpenAI) -> None:
    body = {"prompt": "the ", "max_tokens": 8, "seed": 9, "temperature": 1, "n": 4, "logprobs": 0}
    assert complete(client, **body, best_of=4).choices == complete(client, **body).choices
    texts = [chunk.choices[0] for chunk in complete(client, **body, best_of=4, stream=True)]
    assert {choice.index for choice in texts} == {0, 1, 2, 3}


def test_the_best_of_several_chats(client: OpenAI) -> None:
    def ask(**more: Any) -> Any:
        messages = [{"role": "user", "content": "What is RWKV?"}]
        return client.chat.completions.create(
            model="model", messages=messages, max_tokens=8, seed=9, temperature=1, extra_body=more
        )

    every, best = ask(n=6, logprobs=True), ask(n=2, best_of=6)

    def mean(choice: Any) -> float:  # not one of these answers has white space at its ends, so all tokens are told
        entries = choice.logprobs.content
        return sum(entry.logprob for entry in entries) / len(entries)

    ranked = sorted(every.choices, key=mean, reverse=True)
    assert [choice.message.content for choice in best.choices] == [row.message.content for row in ranked[:2]]
    assert [(choice.index, choice.logprobs) for choice in best.choices] == [(0, None), (1, None)]
    assert best.usage.completion_tokens == every.usage.completion_tokens


def test_ranking_and_streaming_exclude_each_other(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="best_of"):
        complete(client, prompt="x", best_of=2, stream=True)

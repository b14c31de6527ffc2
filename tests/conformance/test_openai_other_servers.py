"""Fields that clients of vLLM, SGLang, llama.cpp and Ollama send: done, or refused by name, or known to do nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.live import LiveServer
from wingbeat.server.dialects.openai_chat_schema import ChatBody
from wingbeat.server.dialects.openai_completions_schema import CompletionBody
from wingbeat.server.dialects.openai_other_names import OtherNames
from wingbeat.server.dialects.openai_other_schema import Off, OtherFields
from wingbeat.server.dialects.responses_schema import ResponsesBody
from wingbeat.text.world import WorldTokenizer

COMPLETIONS, CHAT, RESPONSES = "/v1/completions", "/v1/chat/completions", "/v1/responses"
ASKED: dict[str, dict[str, Any]] = {
    COMPLETIONS: {"prompt": "the wing"},
    CHAT: {"messages": [{"role": "user", "content": "the wing"}]},
    RESPONSES: {"input": "the wing"},
}


def post(server: LiveServer, path: str, **body: Any) -> Any:
    return server.http.post(path, json={**ASKED[path], "seed": 3, **body})


def told(server: LiveServer, path: str, **body: Any) -> Any:
    """The part of a reply that does not change from one request to the next."""
    reply = post(server, path, **body)
    assert reply.status_code == 200, reply.text
    given = reply.json()
    if path == RESPONSES:
        return [item.get("content") for item in given["output"]], given["usage"], given["status"]
    return given["choices"], given["usage"]["completion_tokens"]


SAME = [
    ({"repeat_penalty": 1.5, "ignore_eos": True}, {"repetition_penalty": 1.5, "ignore_eos": True}),
    ({"repeat_penalty": 1.5, "repetition_penalty": 1.0}, {"repetition_penalty": 1.0}),
    ({"seed": None, "sampling_seed": 7}, {"seed": 7}),
    ({"regex": "[0-9]{3}"}, {"guided_regex": "[0-9]{3}"}),
    ({"ebnf": 'root ::= "yes" | "no"'}, {"grammar": 'root ::= "yes" | "no"'}),
    ({"cache_prompt": False}, {"no_cache": True}),
    ({"repeat_last_n": 64}, {}),
    ({"repeat_last_n": -1, "repeat_penalty": 1.2}, {"repetition_penalty": 1.2}),
]


@pytest.mark.parametrize("path", ASKED)
@pytest.mark.parametrize(("fields", "ours"), SAME)
def test_another_name_is_the_same(server: LiveServer, path: str, fields: dict[str, Any], ours: dict[str, Any]) -> None:
    limit = {"max_output_tokens" if path == RESPONSES else "max_tokens": 12}
    assert told(server, path, **fields, **limit) == told(server, path, **ours, **limit)


@pytest.mark.parametrize("name", ["n_predict", "num_predict", "max_new_tokens"])
@pytest.mark.parametrize("path", ASKED)
def test_the_most_tokens_by_other_names(server: LiveServer, path: str, name: str) -> None:
    ours = "max_output_tokens" if path == RESPONSES else "max_tokens"
    assert told(server, path, ignore_eos=True, **{name: 5}) == told(server, path, ignore_eos=True, **{ours: 5})
    assert told(server, path, **{name: 5, ours: 2}) == told(server, path, **{ours: 2})
    reply = post(server, path, **{name: -2})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, name)


def test_log_probabilities_by_llama_cpps_name(server: LiveServer) -> None:
    assert told(server, COMPLETIONS, n_probs=3, max_tokens=4) == told(server, COMPLETIONS, logprobs=3, max_tokens=4)
    ours = {"logprobs": True, "top_logprobs": 3}
    assert told(server, CHAT, n_probs=3, max_tokens=4) == told(server, CHAT, **ours, max_tokens=4)
    limit = {"max_output_tokens": 4}
    assert told(server, RESPONSES, n_probs=3, **limit) == told(server, RESPONSES, top_logprobs=3, **limit)
    assert told(server, COMPLETIONS, n_probs=0, max_tokens=4)[0][0]["logprobs"] is None


def test_a_stop_may_stay_in_the_text(server: LiveServer, tokenizer: WorldTokenizer) -> None:
    asked = {"max_tokens": 30, "ignore_eos": True, "prompt": "the wing"}
    whole = told(server, COMPLETIONS, **asked)[0][0]["text"]
    stop = whole[9:12]
    (cut,), count = told(server, COMPLETIONS, **asked, stop=[stop, "x\0"])
    assert cut["text"] == whole[: whole.index(stop)]
    for name in ("include_stop_str_in_output", "no_stop_trim"):
        (kept,), same = told(server, COMPLETIONS, **asked, stop=[stop, "x\0"], **{name: True})
        assert (kept["text"], kept["finish_reason"], same) == (cut["text"] + stop, "stop", count)
    (kept,), _ = told(server, COMPLETIONS, **asked, stop=[stop], include_stop_str_in_output=True, logprobs=0)
    assert whole.index(stop) <= kept["logprobs"]["text_offset"][-1] < len(kept["text"])
    token = tokenizer.encode(whole)[3]
    (cut,), _ = told(server, COMPLETIONS, **asked, stop_token_ids=[token])
    (kept,), _ = told(server, COMPLETIONS, **asked, stop_token_ids=[token], include_stop_str_in_output=True)
    assert kept["text"] == cut["text"] + tokenizer.token_bytes(token).decode()
    lines = post(server, COMPLETIONS, **asked, stop=stop, include_stop_str_in_output=True, stream=True).text
    events = [json.loads(line[6:]) for line in lines.splitlines() if line.startswith("data: {")]
    assert "".join(event["choices"][0]["text"] for event in events) == whole[: whole.index(stop)] + stop


def test_the_stops_of_a_chats_format_never_stay(server: LiveServer) -> None:
    text = "the wing\n\nUser: beats"
    forced = {"guided_choice": [text]}
    plain = told(server, CHAT, **forced, max_tokens=40)
    assert told(server, CHAT, **forced, max_tokens=40, include_stop_str_in_output=True) == plain


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_an_answer_of_allowed_tokens(server: LiveServer, tokenizer: WorldTokenizer, path: str) -> None:
    ids = [tokenizer.encode(letter)[0] for letter in "abc"]
    for more in ({}, {"temperature": 0}, {"min_tokens": 3}, {"logit_bias": {"7": 100}}):
        (choice,), count = told(server, path, allowed_token_ids=ids, max_tokens=20, **more)
        text = choice["text"] if path == COMPLETIONS else choice["message"]["content"]
        assert set(text) <= set("abc")
        assert (len(text), count, choice["finish_reason"]) == (20, 20, "length")
    (choice,), count = told(server, path, allowed_token_ids=[0], max_tokens=20)
    assert (count, choice["finish_reason"]) == (1, "stop")


@pytest.mark.parametrize(
    "body",
    [
        {"allowed_token_ids": []},
        {"allowed_token_ids": [10**7]},
        {"allowed_token_ids": [5], "bad_words": ["x"]},
        {"allowed_token_ids": [5], "guided_regex": "a"},
        {"allowed_token_ids": [5], "guided_json": {"type": "object"}},
    ],
)
@pytest.mark.parametrize("path", ASKED)
def test_what_allowed_tokens_do_not_go_with(server: LiveServer, path: str, body: dict[str, Any]) -> None:
    reply = post(server, path, **body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "allowed_token_ids"), reply.text


def test_the_last_tokens_of_a_prompt(server: LiveServer, tokenizer: WorldTokenizer) -> None:
    ids = tokenizer.encode("the wing beats over the sea")
    asked: dict[str, Any] = {"max_tokens": 6, "seed": 5}
    short = post(server, COMPLETIONS, prompt=ids[-3:], **asked).json()
    cut = post(server, COMPLETIONS, prompt=ids, truncate_prompt_tokens=3, **asked).json()
    assert (cut["choices"], cut["usage"]["prompt_tokens"]) == (short["choices"], 3)
    whole = post(server, COMPLETIONS, prompt=ids, **asked).json()
    for many in (-1, len(ids), 10_000):
        cut = post(server, COMPLETIONS, prompt=ids, truncate_prompt_tokens=many, **asked).json()
        assert (cut["choices"], cut["usage"]["prompt_tokens"]) == (whole["choices"], len(ids))
    echoed = post(server, COMPLETIONS, prompt="the wing beats", truncate_prompt_tokens=1, echo=True, max_tokens=0)
    assert echoed.json()["choices"][0]["text"] == " beats"[-len(echoed.json()["choices"][0]["text"]) :] != ""
    for path in (CHAT, RESPONSES):
        usage = post(server, path, truncate_prompt_tokens=4).json()["usage"]
        assert usage.get("prompt_tokens", usage.get("input_tokens")) == 4
    most = server.registry.models[0].max_prompt_tokens
    long = post(server, COMPLETIONS, prompt=[5] * (most + 7), truncate_prompt_tokens=2, max_tokens=1)
    assert long.json()["usage"]["prompt_tokens"] == 2
    refused = post(server, COMPLETIONS, truncate_prompt_tokens=4, session_id="one")
    assert refused.json()["error"]["param"] == "truncate_prompt_tokens"


@pytest.mark.parametrize("path", ASKED)
def test_a_window_of_penalties_is_refused_where_there_are_any(server: LiveServer, path: str) -> None:
    for penalty in ({"repeat_penalty": 1.1}, {"presence_penalty": 0.1}, {"frequency_penalty": -0.1}):
        reply = post(server, path, repeat_last_n=64, **penalty)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "repeat_last_n")


def off(body: Any) -> dict[str, Off]:
    return {name: mark for name, field in body.model_fields.items() for mark in field.metadata if isinstance(mark, Off)}


@pytest.mark.parametrize("path", ASKED)
def test_what_is_off_may_be_said(server: LiveServer, path: str) -> None:
    document = server.http.get("/openapi.json").json()["components"]["schemas"]["CompletionBody"]["properties"]
    limit = {"max_output_tokens" if path == RESPONSES else "max_tokens": 4}
    plain = told(server, path, **limit)
    for place in range(3):
        values = {name: document[name]["enum"] for name in off(CompletionBody)}
        assert (
            told(server, path, **limit, **{name: given[place % len(given)] for name, given in values.items()}) == plain
        )


def test_what_has_no_effect_has_none(server: LiveServer) -> None:
    nothing = {"n_keep": 5, "priority": 3, "cache_salt": "x", "dry_base": 1.75, "spaces_between_special_tokens": True}
    for path in ASKED:
        limit = {"max_output_tokens" if path == RESPONSES else "max_tokens": 4}
        assert told(server, path, **limit, **nothing) == told(server, path, **limit)


def test_a_response_has_one_answer_and_no_scored_prompt(server: LiveServer) -> None:
    for field, value in {"best_of": 2, "n": 2, "prompt_logprobs": 0}.items():
        reply = post(server, RESPONSES, **{field: value})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, field)
    assert told(server, RESPONSES, best_of=1, n=1, prompt_logprobs=False, max_output_tokens=2)


def rows() -> dict[str, str]:
    """The names in the table of docs/api.md, with what it says is done."""
    text = (Path(__file__).parents[2] / "docs/api.md").read_text(encoding="utf-8")
    section = text.split("## Fields of other servers")[1].split("\n## ")[0]
    found = re.findall(r"^\| (`[^|]+`) \| [^|]* \| (\w+)", section, re.MULTILINE)
    return {name: kind for names, kind in found for name in re.findall(r"`(\w+)`", names)}


def test_the_document_has_them_all() -> None:
    refused = {*off(CompletionBody), *off(ChatBody)}
    nothing = set(OtherFields.model_fields) - refused
    names = {*OtherNames.model_fields, "thinking_token_budget", "regex", "ebnf"}
    done = {"allowed_token_ids", "include_stop_str_in_output", "truncate_prompt_tokens"}
    want = {
        **dict.fromkeys(refused, "refused"),
        **dict.fromkeys(nothing, "nothing"),
        **dict.fromkeys(names, "same"),
        **dict.fromkeys(done, "honoured"),
        "repeat_last_n": "refused",
    }
    assert rows() == want
    assert set(ResponsesBody.same) == set(ChatBody.same) | {"n_probs"}

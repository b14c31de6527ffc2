"""White space about an answer in a form: that of the form is kept, that before it is no part of the answer."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.live import LiveServer
from wingbeat.text.profile import PROFILES

HELLO: Any = [{"role": "user", "content": "hello"}]
WHITE = {"logit_bias": {"33": 8, "11": 8}}  # towards a space and a line end
BEGINS_WHITE: dict[str, tuple[dict[str, Any], str]] = {
    "regex": ({"guided_regex": r"\n {2}[ab]{2} "}, r"\n {2}[ab]{2} "),
    "regex, perhaps": ({"guided_regex": r"\s?[ab]{2}\n"}, r"\s?[ab]{2}\n"),
    "choice": ({"guided_choice": [" x", "\n\ny "]}, r" x|\n\ny "),
    "Lark": ({"guided_grammar": 'start: " " "a" "\\n"'}, r" a\n"),
    "GBNF": ({"grammar": 'root ::= [ \\t]{2} "a"'}, r"[ \t]{2}a"),
    "kbnf": ({"bnf_schema": "start ::= ' a' ' ' '.';"}, r" a \."),
}


def said(server: LiveServer, path: str, fields: dict[str, Any]) -> tuple[str, str]:
    """An answer, whole and streamed."""
    body = {"seed": 3, "temperature": 2, **fields}
    if path == "responses":
        whole = server.http.post("/v1/responses", json={**body, "input": "hello"}).json()["output"]
        with server.http.stream("POST", "/v1/responses", json={**body, "input": "hello", "stream": True}) as reply:
            lines = [json.loads(line[6:]) for line in reply.iter_lines() if line.startswith("data: {")]
        parts = [line["delta"] for line in lines if line["type"] == "response.output_text.delta"]
        return whole[-1]["content"][0]["text"], "".join(parts)
    body = {"messages": HELLO, **body}
    reply = server.http.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    with server.http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as stream:
        lines = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: {")]
    deltas = [choice["delta"].get("content") or "" for line in lines for choice in line["choices"]]
    return reply.json()["choices"][0]["message"]["content"], "".join(deltas)


@pytest.mark.parametrize("path", ["chat/completions", "responses"])
@pytest.mark.parametrize("name", BEGINS_WHITE)
def test_white_space_of_the_form_is_kept(server: LiveServer, name: str, path: str) -> None:
    fields, expected = BEGINS_WHITE[name]
    for seed in range(3):
        whole, streamed = said(server, path, {**fields, "seed": seed})
        assert re.fullmatch(expected, whole), whole
        assert streamed == whole


@pytest.mark.parametrize("path", ["chat/completions", "responses"])
def test_white_space_before_the_form_is_no_part_of_the_answer(server: LiveServer, path: str) -> None:
    whole, streamed = said(server, path, {"guided_regex": r"[ab]{3}\n", **(WHITE if path != "responses" else {})})
    assert re.fullmatch(r"[ab]{3}\n", whole)
    assert streamed == whole


def test_the_tokens_are_those_of_the_text(server: LiveServer) -> None:
    for fields in (BEGINS_WHITE["regex"][0], {"guided_regex": "[ab]{3}"}):
        body = {"messages": HELLO, "seed": 1, "logprobs": True, "top_logprobs": 2, **WHITE, **fields}
        choice = server.http.post("/v1/chat/completions", json=body).json()["choices"][0]
        entries = choice["logprobs"]["content"]
        assert bytes(byte for entry in entries for byte in entry["bytes"]).decode() == choice["message"]["content"]


def test_a_model_that_reasons_first(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.registry.models[0], "_profile", PROFILES["g1"])
    for effort in ("none", "high"):
        fields = {"reasoning_effort": effort, **({"thinking_budget": 5} if effort == "high" else {})}
        for form, expected in (*BEGINS_WHITE.values(), ({"guided_regex": "[ab]{3}"}, "[ab]{3}")):
            whole, streamed = said(server, "chat/completions", {**fields, **form, **WHITE})
            assert re.fullmatch(expected, whole), (effort, form, whole)
            assert streamed == whole


def test_nothing_comes_between_a_message_and_its_continuation(server: LiveServer) -> None:
    begun = [*HELLO, {"role": "assistant", "content": "The answer is"}]
    for form, expected in (({"guided_choice": ["yes", "no"]}, "yes|no"), BEGINS_WHITE["choice"]):
        fields = {"messages": begun, "continue_final_message": True, **WHITE, **form}
        whole, streamed = said(server, "chat/completions", fields)
        assert re.fullmatch(expected, whole), whole
        assert streamed == whole


def test_nothing_comes_between_an_answer_and_what_goes_on_from_its_state(server: LiveServer) -> None:
    cut = {"messages": HELLO, "max_tokens": 3, "ignore_eos": True, "return_state": True, "guided_regex": "[ab]{9}"}
    kept = server.http.post("/v1/chat/completions", json=cut).json()["choices"][0]["state"]
    body = {"state": kept["id"] if isinstance(kept, dict) else kept, "guided_choice": ["yes", "no"], **WHITE}
    reply = server.http.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    assert reply.json()["choices"][0]["message"]["content"] in ("yes", "no")

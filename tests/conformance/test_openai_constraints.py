"""The forms of an answer, asked of a model with random weights: only the grammar can make it right."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel, Field

from tests.live import LiveServer
from wingbeat.text.profile import PROFILES

HELLO: Any = [{"role": "user", "content": "hello"}]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"kind": {"enum": ["a", "b c"]}, "size": {"type": "integer"}, "on": {"type": "boolean"}},
    "required": ["kind", "size", "on"],
    "additionalProperties": False,
}
NAMED = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True}}
GBNF = 'root ::= greeting " " name\ngreeting ::= "hi" | "ho"\nname ::= [a-c]{2,3}\n'
LARK = 'start: GREETING " " NAME\nGREETING: "hi" | "ho"\nNAME: /[a-c]{2,3}/\n'
GREETING = r"h[io] [a-c]{2,3}"


def fits_schema(text: str) -> bool:
    jsonschema.validate(json.loads(text), SCHEMA)
    return True


def is_greeting(text: str) -> bool:
    return re.fullmatch(GREETING, text) is not None


FORMS: dict[str, tuple[dict[str, Any], Any]] = {
    "response_format": ({"response_format": NAMED}, fits_schema),
    "response_format.schema": ({"response_format": {"type": "json_object", "schema": SCHEMA}}, fits_schema),
    "response_format.schema, of json_schema": (
        {"response_format": {"type": "json_schema", "schema": SCHEMA}},
        fits_schema,
    ),
    "guided_json": ({"guided_json": SCHEMA}, fits_schema),
    "guided_json, a text": ({"guided_json": json.dumps(SCHEMA)}, fits_schema),
    "json_schema": ({"json_schema": SCHEMA}, fits_schema),
    "guided_regex": ({"guided_regex": GREETING}, is_greeting),
    "guided_choice": ({"guided_choice": ["hi aa", "ho bbb"]}, is_greeting),
    "guided_grammar, Lark": ({"guided_grammar": LARK}, is_greeting),
    "guided_grammar, GBNF": ({"guided_grammar": GBNF}, is_greeting),
    "grammar": ({"grammar": GBNF}, is_greeting),
    "bnf_schema": (
        {"bnf_schema": "start ::= 'h' ('i' | 'o') ' ' #'[a-c]{2,3}' '.';"},
        lambda text: is_greeting(text[:-1]),
    ),
    "structured_outputs.json": ({"structured_outputs": {"json": SCHEMA}}, fits_schema),
    "structured_outputs.regex": ({"structured_outputs": {"regex": GREETING}}, is_greeting),
    "structured_outputs.choice": ({"structured_outputs": {"choice": ["hi aa"]}}, is_greeting),
    "structured_outputs.grammar": ({"structured_outputs": {"grammar": LARK}}, is_greeting),
}


def ask(server: LiveServer, path: str, **fields: Any) -> dict[str, Any]:
    start = {"messages": HELLO} if path == "chat/completions" else {"prompt": "x"}
    reply = server.http.post(f"/v1/{path}", json={**start, "max_tokens": 300, "seed": 5, **fields})
    assert reply.status_code == 200, reply.text
    return reply.json()


def texts(reply: dict[str, Any]) -> list[str]:
    assert {choice["finish_reason"] for choice in reply["choices"]} == {"stop"}
    return [choice["text"] if "text" in choice else choice["message"]["content"] for choice in reply["choices"]]


def streamed(server: LiveServer, path: str, **fields: Any) -> str:
    start = {"messages": HELLO} if path == "chat/completions" else {"prompt": "x"}
    body = {**start, "max_tokens": 300, "seed": 5, "stream": True, **fields}
    with server.http.stream("POST", f"/v1/{path}", json=body) as reply:
        lines = [json.loads(line[6:]) for line in reply.iter_lines() if line.startswith("data: {")]
    choices = [choice for line in lines for choice in line["choices"]]
    return "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices)


@pytest.mark.parametrize("path", ["completions", "chat/completions"])
@pytest.mark.parametrize("name", FORMS)
def test_every_answer_has_the_form(server: LiveServer, name: str, path: str) -> None:
    fields, fits = FORMS[name]
    found = texts(ask(server, path, n=3, **fields))
    assert len(found) == 3
    assert all(map(fits, found))
    assert streamed(server, path, **fields) == found[0]


def test_any_object(server: LiveServer) -> None:
    for fields in ({"response_format": {"type": "json_object"}}, {"structured_outputs": {"json_object": True}}):
        reply = ask(server, "chat/completions", logit_bias={"126": 30, "35": 20}, **fields)  # towards } and "
        assert isinstance(json.loads(*texts(reply)), dict)


@pytest.mark.parametrize("path", ["completions", "chat/completions"])
def test_white_space_where_it_is_asked_for(server: LiveServer, path: str) -> None:
    for fields in (
        {"guided_json": SCHEMA, "guided_whitespace_pattern": "[ \n]"},
        {"structured_outputs": {"json": SCHEMA, "whitespace_pattern": r"\s{1,2}", "disable_any_whitespace": False}},
        {"response_format": NAMED, "guided_whitespace_pattern": " ", "guided_decoding_backend": "xgrammar"},
    ):
        found = texts(ask(server, path, n=3, temperature=2, **fields))
        assert all(map(fits_schema, found))
        assert any(re.search(r'[ \n]["}:]', text) for text in found)


def test_stops_do_not_count_inside(server: LiveServer) -> None:
    fields = {"guided_regex": r"a\n\nb\nUser:c", "stop": ["b"]}
    assert texts(ask(server, "chat/completions", **fields)) == ["a\n\nb\nUser:c"]
    assert texts(ask(server, "completions", **fields)) == ["a\n\nb\nUser:c"]


def test_log_probabilities_are_those_of_the_text(server: LiveServer) -> None:
    reply = ask(server, "chat/completions", guided_regex=r"ab\n\n", logprobs=True, top_logprobs=2)
    assert texts(reply) == ["ab\n\n"]
    entries = reply["choices"][0]["logprobs"]["content"]
    assert bytes(byte for entry in entries for byte in entry["bytes"]) == b"ab\n\n"


@pytest.mark.parametrize("path", ["completions", "chat/completions"])
def test_in_a_session(server: LiveServer, path: str) -> None:
    fields = {"session_id": f"forms of {path}", "guided_regex": GREETING}
    for _ in range(2):
        reply = ask(server, path, **fields)
        assert is_greeting(*texts(reply))
        assert reply["session"]["saved"]
    server.http.delete(f"/v1/sessions/{fields['session_id']}")


@pytest.mark.parametrize(("effort", "reasons"), [("none", False), ("high", True), (None, False)])
def test_a_thinking_model_reasons_first(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, effort: str | None, reasons: bool
) -> None:
    monkeypatch.setattr(server.registry.models[0], "_profile", PROFILES["g1"])
    fields = {"reasoning_effort": effort, "thinking_budget": 8} if effort else {}
    reply = ask(server, "chat/completions", guided_regex=GREETING, **fields)
    assert is_greeting(*texts(reply))
    assert bool(reply["choices"][0]["message"].get("reasoning_content")) == reasons
    assert streamed(server, "chat/completions", guided_regex=GREETING, **fields) == texts(reply)[0]


@pytest.mark.parametrize("path", ["completions", "chat/completions", "responses"])
@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice", "guided_regex and guided_choice exclude"),
        ({"grammar": GBNF, "structured_outputs": {"regex": "a"}}, "structured_outputs.regex", "exclude each other"),
        ({"structured_outputs": {"json_object": True, "regex": "a"}}, "structured_outputs.json_object", "exclude"),
        ({"guided_whitespace_pattern": " ?"}, "guided_whitespace_pattern", "whose form is JSON"),
        ({"guided_regex": "a", "guided_whitespace_pattern": " ?"}, "guided_whitespace_pattern", "whose form is JSON"),
        ({"guided_json": {}, "guided_whitespace_pattern": "a*"}, "guided_whitespace_pattern", "white space only"),
        ({"guided_json": {}, "guided_whitespace_pattern": "( "}, "guided_whitespace_pattern", "is not possible"),
        (
            {"structured_outputs": {"json": {}, "whitespace_pattern": " ?", "disable_any_whitespace": True}},
            "structured_outputs.whitespace_pattern",
            "exclude each other",
        ),
        (
            {"structured_outputs": {"json": {}, "whitespace_pattern": " "}, "guided_whitespace_pattern": " "},
            "structured_outputs.whitespace_pattern",
            "leave one out",
        ),
        ({"structural_tag": "x"}, "structural_tag", "does not offer"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag", "not supported"),
        ({"guided_regex": "a("}, "guided_regex", "line 1"),
        ({"guided_grammar": 'start: "a" b\n'}, "guided_grammar", "line 1"),
        ({"grammar": 'root ::= "a" b\n'}, "grammar", "b"),
        ({"bnf_schema": "start ::= 'a"}, "bnf_schema", "line 1"),
        ({"guided_choice": ["a", 5]}, "guided_choice", "a list of texts"),
        ({"guided_json": "{"}, "guided_json", "line 1"),
        ({"guided_json": [1]}, "guided_json", "a JSON schema is wanted"),
        ({"guided_json": {"type": "object", "not": {}}}, "guided_json", "not"),
        ({"json_schema": {"type": "thing"}}, "json_schema", "thing"),
        ({"grammar": 5}, "grammar", "string"),
    ],
)
def test_what_is_wrong_is_told(server: LiveServer, path: str, fields: dict[str, Any], param: str, message: str) -> None:
    start = {"chat/completions": {"messages": HELLO}, "completions": {"prompt": "x"}, "responses": {"input": "x"}}[path]
    for stream in (False, True):
        reply = server.http.post(f"/v1/{path}", json={**start, **fields, "stream": stream})
        assert reply.status_code == 400
        error = reply.json()["error"]
        assert (error["param"], error["type"]) == (param, "invalid_request_error")
        assert message in error["message"]


def test_formats_that_are_none(server: LiveServer) -> None:
    for given, param in (
        ({"type": "xml"}, "response_format"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        ({"type": "json_object", "json_schema": {"name": "a"}}, "response_format.json_schema"),
        ({"type": "text", "schema": {}}, "response_format.schema"),
        ({"type": "json_schema", "json_schema": {"schema": SCHEMA}}, "response_format.json_schema.name"),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": 5}}}, "response_format"),
    ):
        reply = server.http.post("/v1/chat/completions", json={"messages": HELLO, "response_format": given})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


class Step(BaseModel):
    kind: str = Field(max_length=6)
    size: int


class Plan(BaseModel):
    steps: list[Step] = Field(max_length=2)
    done: bool


def test_the_package_parses_models(client: OpenAI) -> None:
    given: dict[str, Any] = {"model": "tiny", "messages": HELLO, "seed": 1, "response_format": Plan}
    plan = client.chat.completions.parse(**given).choices[0].message.parsed
    assert isinstance(plan, Plan)
    with client.chat.completions.stream(**given) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == plan
    parsed = client.responses.parse(model="tiny", input="hello", text_format=Plan)
    assert isinstance(parsed.output_parsed, Plan)
    assert parsed.text.format is not None
    assert parsed.text.format.type == "json_schema"
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(**given, max_tokens=3)

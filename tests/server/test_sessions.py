"""Sessions over HTTP: only what is new is sent, and what is kept is what the model saw and wrote."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import openai
import pytest

from tests.live import LiveServer, live_server, settings_for
from wingbeat.config import KeySettings
from wingbeat.demo import demo_model_path
from wingbeat.services import database, session_log

ASKED = ["Hello there", "Where is the bird?", "And the mouse?"]
ANN, BOB = {"authorization": "Bearer ann"}, {"authorization": "Bearer bob"}
ENDLESS = {"max_tokens": 100_000, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def server(data: Path) -> Iterator[LiveServer]:
    with serve(data, max_sessions_per_key=30) as live:
        yield live


def serve(data: Path, **settings: Any) -> Any:
    return live_server(settings_for(demo_model_path(), dtype="auto", data_dir=data, **settings))


def chat(server: LiveServer, *said: str, **more: Any) -> dict[str, Any]:
    """Messages of the user and the assistant in turn; greedy unless told otherwise."""
    messages = [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(said)]
    body = {"messages": messages, "temperature": 0, "max_tokens": 40, **more}
    reply = server.http.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def refused(server: LiveServer, path: str, body: dict[str, Any]) -> tuple[int, str | None, str | None]:
    reply = server.http.post(f"/v1/{path}", json=body)
    error = reply.json()["error"]
    return reply.status_code, error["param"], error["code"]


def text_of(reply: dict[str, Any]) -> str:
    return reply["choices"][0]["message"]["content"]


def card(server: LiveServer, session_id: str, **headers: Any) -> dict[str, Any]:
    reply = server.http.get(f"/v1/sessions/{session_id}", **headers)
    assert reply.status_code == 200, reply.text
    return reply.json()


def kept_text(server: LiveServer, data: Path, session_id: str) -> str:
    """What the file holds of a session, as text."""
    with contextlib.closing(sqlite3.connect(data / "sessions.sqlite3")) as db:
        session = session_log.find(db, "", session_id)
        ids = [] if session is None else session_log.tokens_of(session_log.read_log(db, session))
    tokenizer = server.registry.first.tokenizer
    assert tokenizer is not None
    return tokenizer.decode(ids)


def converse(server: LiveServer, session_id: str) -> list[str]:
    """`ASKED` and the answers to it."""
    said: list[str] = []
    for text in ASKED:
        said += [text, text_of(chat(server, text, session_id=session_id))]
    return said


def test_a_conversation_sends_only_what_is_new(server: LiveServer, data: Path) -> None:
    said = converse(server, "talk")
    whole = chat(server, *said[:-1])
    assert text_of(whole) == said[-1]
    # Each answer lies in the file without the blank line that ended it; the next message brings that.
    turns = [f"{'Assistant' if i % 2 else 'User'}: {text}" for i, text in enumerate(said)]
    assert kept_text(server, data, "talk") == "\n\n".join(turns)
    found = card(server, "talk")
    assert (found["turns"], found["model"], found["busy"]) == (3, "wingbeat-demo", False)
    assert found["tokens"] == whole["usage"]["total_tokens"] - 1  # without the stop
    assert found["expires"] - found["updated"] == 30 * 86400


def test_a_history_that_is_sent_all_the_same_is_recognised(server: LiveServer, data: Path) -> None:
    said = converse(server, "history")
    tokens = card(server, "history")["tokens"]
    more = chat(server, *said, "Why?", session_id="history")
    assert text_of(more) == text_of(chat(server, *said, "Why?"))
    assert kept_text(server, data, "history").count("Where is the bird?") == 1
    assert card(server, "history")["tokens"] > tokens
    other = [{"role": "assistant", "content": "I never said so."}, {"role": "user", "content": "Why?"}]
    for messages in ([*other], [{"role": "user", "content": "Hello there"}, *other]):
        body = {"messages": messages, "session_id": "history"}
        assert refused(server, "chat/completions", body) == (400, "messages", "invalid_value")


def test_the_official_client_and_the_other_dialects(server: LiveServer) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        extra = {"session_id": "mixed"}
        chunks = client.chat.completions.create(
            model="model",
            messages=[{"role": "user", "content": ASKED[0]}],
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=extra,
        )
        usage = [chunk.usage for chunk in chunks][-1]
        assert usage is not None
        response = client.responses.create(model="model", input=ASKED[1], temperature=0, extra_body=extra)
        assert response.usage is not None
        assert response.usage.input_tokens > usage.total_tokens
        assert response.model_extra is not None
        assert response.model_extra["session"] == {"id": "mixed", "saved": True, "error": None}
        counted = client.responses.input_tokens.count(model="model", input=ASKED[2], extra_body=extra)
        last = client.chat.completions.create(
            model="model", messages=[{"role": "user", "content": ASKED[2]}], temperature=0, extra_body=extra
        )
    assert last.usage is not None
    assert last.usage.prompt_tokens == counted.input_tokens
    assert last.choices[0].message.content == converse(server, "again")[-1]


def test_a_completion_goes_on_with_text_as_it_is(server: LiveServer, data: Path) -> None:
    def complete(**body: Any) -> str:
        reply = server.http.post("/v1/completions", json={"temperature": 0, "session_id": "raw", **body})
        assert reply.status_code == 200, reply.text
        return reply.json()["choices"][0]["text"]

    first = complete(prompt="User: Hello there\n\nAssistant:", max_tokens=4)
    rest = complete(prompt="", stop="\n\n", max_tokens=40)
    assert kept_text(server, data, "raw") == f"User: Hello there\n\nAssistant:{first}{rest}"
    assert (first + rest).strip() == text_of(chat(server, "Hello there"))
    complete(prompt=[261, 262], max_tokens=0)
    assert card(server, "raw")["turns"] == 3
    server.http.delete("/v1/sessions/raw")
    complete(prompt="", max_tokens=1)
    assert card(server, "raw")["tokens"] == 2  # the start of a document is one that the model saw


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("completions", {"prompt": ["a", "b"]}, "prompt"),
        ("completions", {"prompt": "a", "n": 2}, "n"),
        ("completions", {"prompt": "a", "best_of": 2}, "best_of"),
        ("completions", {"prompt": "a", "echo": True}, "echo"),
        ("chat/completions", {"messages": [{"role": "user", "content": "x"}], "n": 2}, "n"),
        ("completions", {"prompt": "a", "session_id": ""}, "session_id"),
        ("completions", {"prompt": "a", "session_id": "x" * 129}, "session_id"),
        ("completions", {"prompt": "a", "session_id": "a\nb"}, "session_id"),
        ("completions", {"prompt": "a", "max_tokens": -5}, "max_tokens"),
    ],
)
def test_what_a_session_cannot_do_is_refused_and_leaves_nothing(
    server: LiveServer, path: str, body: dict[str, Any], param: str
) -> None:
    status, named, _ = refused(server, path, {"session_id": "refused", **body})
    assert (status, named) == (400, param)
    assert server.http.get("/v1/sessions/refused").status_code == 404


def test_ids_of_any_kind_and_pages_of_them(server: LiveServer) -> None:
    names = ["a/b", "å ä", "100 %", "?#"]
    for name in names:
        chat(server, "Hi", session_id=name, max_tokens=1)
    for name in names:
        assert server.http.get(f"/v1/sessions/{quote(name, safe='')}").json()["id"] == name
    listed, after = list[str](), None
    while True:
        page = server.http.get("/v1/sessions", params={"limit": 2, **({"after": after} if after else {})}).json()
        listed += [session["id"] for session in page["data"]]
        if not page["has_more"]:
            break
        after = listed[-1]
    assert listed[: len(names)] == names[::-1]
    assert len(set(listed)) == len(listed)
    for query, status in (("limit=0", 400), ("limit=x", 400), ("limit=101", 400), ("after=nobody", 404)):
        assert server.http.get(f"/v1/sessions?{query}").status_code == status


async def test_requests_of_one_session_wait_for_each_other(server: LiveServer, data: Path) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:

        def ask(text: str) -> Any:
            messages = [{"role": "user", "content": text}]
            return client.post(
                "/v1/chat/completions", json={"messages": messages, "max_tokens": 5, "session_id": "queue"}
            )

        replies = await asyncio.gather(*(ask(f"This is message {number}.") for number in range(6)))
    assert [reply.status_code for reply in replies] == [200] * 6
    text = kept_text(server, data, "queue")
    assert card(server, "queue")["turns"] == 6
    assert all(text.count(f"User: This is message {number}.\n\nAssistant:") == 1 for number in range(6))


async def test_who_leaves_keeps_what_was_written_and_frees_the_session(server: LiveServer, data: Path) -> None:
    body = {"prompt": "User: Hello there\n\nAssistant:", "session_id": "left", "seed": 1, **ENDLESS}
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        async with client.stream("POST", "/v1/completions", json=body) as got:
            lines, seen = got.aiter_lines(), ""
            while len(seen) < 10:
                if line := await anext(lines):
                    seen += json.loads(line.removeprefix("data: "))["choices"][0]["text"]
            impatient = asyncio.create_task(client.post("/v1/completions", json={**body, "prompt": "x"}))
            await asyncio.sleep(0.1)
            busy = await client.get("/v1/sessions/left")
            impatient.cancel()  # it waits for its turn
            await asyncio.gather(impatient, return_exceptions=True)
        assert busy.status_code == 404  # nothing is kept yet
        last = await client.post("/v1/completions", json={"prompt": " End", "session_id": "left", "max_tokens": 0})
    assert last.status_code == 200
    text = kept_text(server, data, "left")
    assert text.startswith(f"User: Hello there\n\nAssistant:{seen}")
    assert text.endswith(" End")
    found = card(server, "left")
    assert (found["turns"], found["busy"]) == (2, False)


async def test_a_session_that_is_deleted_while_it_is_answered_stays_deleted(server: LiveServer) -> None:
    chat(server, "Hi", session_id="gone")
    body = {"prompt": "x", "session_id": "gone", **ENDLESS, "max_tokens": 2000}
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=60) as client,
        client.stream("POST", "/v1/completions", json=body) as got,
    ):
        lines = got.aiter_lines()
        await anext(lines)
        assert (await client.get("/v1/sessions/gone")).json()["busy"]
        assert (await client.delete("/v1/sessions/gone")).json() == {"id": "gone", "object": "session", "deleted": True}
        last = [line async for line in lines if line][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "session_conflict"
    assert server.http.get("/v1/sessions/gone").status_code == 404


def test_a_failed_generation_leaves_the_session_as_it_was(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    chat(server, "Hi", session_id="failing")
    before = card(server, "failing")
    client = server.registry.first.client
    submit = client.submit

    def failing(request: Any) -> Any:
        generation = submit(request)
        asyncio.get_running_loop().call_soon(lambda: client._drop(generation) or generation.end("error", "broken"))
        return generation

    monkeypatch.setattr(client, "submit", failing)
    messages = [{"role": "user", "content": "x"}]
    assert refused(server, "chat/completions", {"messages": messages, "session_id": "failing"})[0] == 500
    monkeypatch.undo()
    assert card(server, "failing") == before


def test_two_servers_on_one_folder(server: LiveServer, data: Path) -> None:
    """The second one does not know whose turn it is at the first; the file does."""
    chat(server, "Hi", session_id="shared")
    with serve(data) as other:
        body = {"prompt": "x", "session_id": "shared", **ENDLESS, "max_tokens": 300}
        with server.http.stream("POST", "/v1/completions", json=body) as got:
            lines = got.iter_lines()
            next(lines)
            assert text_of(chat(other, "Hello there", session_id="shared"))
            assert "session_conflict" in "".join(lines)
    assert card(server, "shared")["turns"] == 2
    chat(server, "Once more", session_id="shared")
    assert card(server, "shared")["turns"] == 3


def test_a_locked_file_loses_no_text(model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    body = {"prompt": "the ", "max_tokens": 3, "ignore_eos": True, "session_id": "s", "seed": 1}
    with live_server(settings_for(model_path, data_dir=tmp_path)) as live:
        first = live.http.post("/v1/completions", json=body).json()
        assert first["session"] == {"id": "s", "saved": True, "error": None}
        holder = sqlite3.connect(tmp_path / "sessions.sqlite3", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        reply = live.http.post("/v1/completions", json=body).json()
        assert reply["usage"]["completion_tokens"] == 3
        assert not reply["session"]["saved"]
        assert "database is locked" in reply["session"]["error"]
        *_, last = live.http.post("/v1/completions", json={**body, "stream": True}).text.strip().split("\n\n")
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "session_not_saved"
        holder.execute("COMMIT")
        holder.close()
        assert card(live, "s")["turns"] == 1
        assert live.http.post("/v1/completions", json=body).json()["choices"] == reply["choices"]  # it goes on


def test_a_server_that_is_started_again_goes_on(tmp_path: Path) -> None:
    with serve(tmp_path) as first:
        said = [ASKED[0], text_of(chat(first, ASKED[0], session_id="s"))]
    with serve(tmp_path) as second:
        said += [ASKED[1], text_of(chat(second, ASKED[1], session_id="s"))]
        assert said[-1] == text_of(chat(second, *said[:-1]))
    (tmp_path / "sessions.sqlite3").write_bytes(b"not a database " * 1000)
    with serve(tmp_path) as third:
        assert third.http.get("/v1/sessions").json() == {"object": "list", "data": [], "has_more": False}
        assert text_of(chat(third, ASKED[0], session_id="s")) == said[1]
    assert list(tmp_path.glob("sessions.sqlite3.damaged-*"))


def test_a_key_sees_only_its_own(tmp_path: Path, model_path: Path) -> None:
    keys = [KeySettings(name=name, key=name) for name in ("ann", "bob")]
    with live_server(settings_for(model_path, data_dir=tmp_path, keys=keys, max_sessions_per_key=2)) as live:

        def talk(session_id: str, key: dict[str, str]) -> int:
            body = {"prompt": "the ", "max_tokens": 1, "ignore_eos": True, "session_id": session_id}
            return live.http.post("/v1/completions", json=body, headers=key).json()["usage"]["prompt_tokens"]

        assert (talk("s", ANN), talk("s", BOB), talk("s", ANN)) == (1, 1, 3)
        assert live.http.get("/v1/sessions/s", headers=ANN).json()["turns"] == 2
        absent = live.http.get("/v1/sessions/t", headers=BOB)
        talk("t", ANN)
        assert live.http.get("/v1/sessions/t", headers=BOB).content == absent.content
        assert live.http.delete("/v1/sessions/t", headers=BOB).status_code == 404
        assert [found["id"] for found in live.http.get("/openai/v1/sessions", headers=BOB).json()["data"]] == ["s"]
        talk("u", ANN)  # a third: the budget is two
        assert [found["id"] for found in live.http.get("/v1/sessions", headers=ANN).json()["data"]] == ["u", "t"]


def test_another_model_does_not_go_on_with_the_ids_of_this_one(
    server: LiveServer, data: Path, model_path: Path
) -> None:
    chat(server, "Hi", session_id="demo's")
    with live_server(settings_for(model_path, data_dir=data)) as other:
        body = {"prompt": "x", "session_id": "demo's"}
        assert refused(other, "completions", body) == (400, "session_id", "session_of_another_model")
        message = other.http.post("/v1/completions", json=body).json()["error"]["message"]
    assert "wingbeat-demo" in message


def test_limits_count_what_is_sent(model_path: Path, tmp_path: Path) -> None:
    with live_server(settings_for(model_path, data_dir=tmp_path, max_prompt_tokens=4)) as live:
        body = {"prompt": [60, 70, 80], "max_tokens": 2, "ignore_eos": True, "session_id": "s"}
        replies = [live.http.post("/v1/completions", json=body) for _ in range(3)]
        assert [reply.json()["usage"]["prompt_tokens"] for reply in replies] == [3, 8, 13]

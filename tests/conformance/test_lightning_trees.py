"""rwkv_lightning's trees of turns: what is kept of a path, and what deleting and leaving do to it."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conformance.lightning import post, refused, texts
from tests.live import LiveServer, live_server, settings_for

TREE = "/multi_state/chat/completions"
GREEDY: dict[str, Any] = {"max_tokens": 6, "top_p": 0, "alpha_presence": 0, "alpha_frequency": 0}
ENDLESS = {"max_tokens": 100_000, "stop_tokens": [], "ignore_eos": True}


@pytest.fixture(scope="module")
def server(model_path: Path, data: Path) -> Iterator[LiveServer]:
    with live_server(settings_for(model_path, data_dir=data)) as live:
        yield live


def branch(server: LiveServer, tree: str, parent: int, text: str) -> tuple[int, str]:
    body = {"session_id": tree, "dialogue_idx": parent, "contents": [text], **GREEDY}
    reply = post(server, TREE, body)
    return reply["dialogue_idx"], texts(reply)[0]


def delete(server: LiveServer, session_id: str, **more: Any) -> None:
    post(server, "/state/delete", {"session_id": session_id, **more})


def turns_on_disk(data: Path) -> int:
    with contextlib.closing(sqlite3.connect(data / "sessions.sqlite3")) as db:
        return db.execute("SELECT count(*) FROM turns").fetchone()[0]


def test_a_turn_is_kept_once_however_many_go_on_from_it(server: LiveServer, data: Path) -> None:
    before = turns_on_disk(data) if (data / "sessions.sqlite3").exists() else 0
    for parent in (0, 1, 2, 3, 1, 1):
        branch(server, "once", parent, "User: a")
    assert turns_on_disk(data) == before + 6
    delete(server, "once", delete_prefix=True)
    assert turns_on_disk(data) == before


def test_a_path_goes_on_when_what_it_came_from_is_deleted(server: LiveServer) -> None:
    for tree in ("whole", "holed"):
        for parent in (0, 1, 2):
            branch(server, tree, parent, f"User: {parent}")
    delete(server, "holed:1")
    delete(server, "holed:2")
    assert branch(server, "holed", 3, "User: x") == branch(server, "whole", 3, "User: x")
    body = {"session_id": "holed", "dialogue_idx": 1, "contents": ["x"]}
    assert refused(server, TREE, body) == (404, {"error": "State not found for dialogue_idx=1"})


def test_a_turn_counts_those_before_it(server: LiveServer) -> None:
    for parent in (0, 1, 2):
        branch(server, "counts", parent, "User: a")
    cards = [server.http.get(f"/v1/sessions/counts:{number}").json() for number in (1, 2, 3)]
    assert [card["turns"] for card in cards] == [1, 2, 3]
    assert cards[0]["tokens"] < cards[1]["tokens"] < cards[2]["tokens"]


def test_openais_form_goes_on_with_a_turn_and_its_branches_stay(server: LiveServer) -> None:
    branch(server, "chat", 0, "User: a\n\nAssistant:")
    branch(server, "chat", 1, "User: b\n\nAssistant:")
    want = branch(server, "chat", 2, "User: c\n\nAssistant:")[1]
    chat = {"session_id": "chat:1", "messages": [{"role": "user", "content": "other"}], "max_tokens": 4}
    post(server, "/v1/chat/completions", chat)
    assert branch(server, "chat", 2, "User: c\n\nAssistant:")[1] == want


@pytest.mark.parametrize("what", [{"session_id": "cut:1"}, {"session_id": "cut", "delete_prefix": True}])
async def test_an_answer_to_a_deleted_turn_is_refused(server: LiveServer, what: dict[str, Any]) -> None:
    await asyncio.to_thread(branch, server, "cut", 0, "User: a")
    body = {"session_id": "cut", "dialogue_idx": 1, "contents": ["User: b"], **GREEDY, **ENDLESS, "max_tokens": 4_000}
    http = httpx.AsyncClient(base_url=server.url, timeout=60)
    asked = http.stream("POST", TREE, json=body | {"stream": True, "chunk_size": 1})
    async with http, asked as reply:
        lines = reply.aiter_lines()
        await anext(lines)
        await http.post("/state/delete", json=what)
        *_, error, _, done, _ = [line async for line in lines]
    assert "was deleted while the answer was written" in error
    assert done == "data: [DONE]"
    assert refused(server, TREE, body)[0] == 404


async def test_who_leaves_leaves_the_tree_as_it_was(server: LiveServer, data: Path) -> None:
    await asyncio.to_thread(branch, server, "gone", 0, "User: a")
    before = turns_on_disk(data)
    body = {"session_id": "gone", "dialogue_idx": 1, "contents": ["User: b"], **GREEDY, **ENDLESS}
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        asked = asyncio.create_task(http.post(TREE, json=body))
        await asyncio.to_thread(server.wait_for, lambda health: health["running"])
        asked.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asked
    await asyncio.to_thread(server.wait_idle)
    assert turns_on_disk(data) == before
    assert (await asyncio.to_thread(branch, server, "gone", 1, "User: b"))[0] == 2


def test_a_tree_of_another_model_is_refused(server: LiveServer, data: Path) -> None:
    branch(server, "model", 0, "User: a")
    with contextlib.closing(sqlite3.connect(data / "sessions.sqlite3")) as db:
        db.execute("UPDATE sessions SET fingerprint = 'x', model = 'other' WHERE id = 'model:1'")
        db.commit()
    status, said = refused(server, TREE, {"session_id": "model", "dialogue_idx": 1, "contents": ["x"]})
    assert status == 400
    assert "other" in said["error"]


def test_keys_have_trees_of_their_own(model_path: Path) -> None:
    with live_server(settings_for(model_path, api_keys=["a", "b"])) as live:
        for key, number in (("a", 1), ("a", 2), ("b", 1)):
            body = {"session_id": "t", "dialogue_idx": 0, "contents": ["x"], "password": key, **GREEDY}
            assert post(live, TREE, body)["dialogue_idx"] == number
        body = {"session_id": "t", "dialogue_idx": 2, "contents": ["x"], "password": "b"}
        assert refused(live, TREE, body)[0] == 404
        post(live, "/state/delete", {"session_id": "t", "delete_prefix": True, "password": "b"})
        assert post(live, TREE, body | {"password": "a", **GREEDY})["dialogue_idx"] == 3


@pytest.mark.parametrize("name", ["", "a\nb", "\0", "a" * 117])
def test_a_tree_s_name_is_printable_as_that_of_a_session(server: LiveServer, name: str) -> None:
    body = {"session_id": name, "dialogue_idx": 0, "contents": ["User: a"], **GREEDY}
    said = "session_id: 1 to 116 printable characters are wanted."
    assert refused(server, TREE, body) == (400, {"error": said})

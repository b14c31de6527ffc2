"""rwkv_lightning's conversations: states that go on, and trees of turns."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conformance.lightning import events, joined, post, refused, texts
from tests.live import LiveServer, live_server, settings_for
from wingbeat.services import session_log
from wingbeat.services.session_log import LoggedTurn

STATE, TREE = "/state/chat/completions", "/multi_state/chat/completions"
GREEDY: dict[str, Any] = {"max_tokens": 12, "top_p": 0, "alpha_presence": 0, "alpha_frequency": 0}
FIRST, SECOND = "User: the wing beats\n\nAssistant:", "User: and then?\n\nAssistant:"


@pytest.fixture(scope="module")
def server(model_path: Path, data: Path) -> Iterator[LiveServer]:
    with live_server(settings_for(model_path, data_dir=data)) as live:
        yield live


def turn(server: LiveServer, session_id: str | None, text: str, **more: Any) -> str:
    body = {"session_id": session_id, "contents": [text], **GREEDY, **more}
    return texts(post(server, STATE, body))[0]


def log_of(data: Path, session_id: str) -> list[LoggedTurn]:
    """What is kept of a session of nobody's."""
    with contextlib.closing(sqlite3.connect(data / "sessions.sqlite3")) as db:
        session = session_log.find(db, "", session_id)
        return [] if session is None else session_log.read_log(db, session)


def check(server: LiveServer, data: Path, session_id: str, answer: str, *read: str) -> None:
    """The turns of a session read these texts, and its last answer is the one to all that came before it."""
    tokenizer = server.registry.first.tokenizer
    assert tokenizer is not None
    turns = log_of(data, session_id)
    assert [tokenizer.decode(kept.read) for kept in turns] == list(read)
    before = [token for kept in turns[:-1] for token in (*kept.read, *kept.written)] + turns[-1].read
    body = {"prompt": before, "temperature": 0, "max_tokens": 12, "stop": "\nUser:", "no_cache": True}
    assert post(server, "/v1/completions", body)["choices"][0]["text"] == answer


def sessions(server: LiveServer) -> dict[str, dict[str, Any]]:
    report = post(server, "/state/status", {})
    assert report["status"] == "success"
    assert report["total_sessions"] == len(report["sessions"])
    assert sum(report[f"{level}_count"] for level in ("l1_cache", "l2_cache", "database")) == report["total_sessions"]
    return {session["session_id"]: session for session in report["sessions"]}


def test_a_turn_goes_on_from_the_one_before(server: LiveServer, data: Path) -> None:
    """E9: only what is new is sent, and the answer is that to the whole."""
    first = turn(server, "s1", FIRST)
    check(server, data, "s1", first, FIRST)
    second = turn(server, "s1", SECOND)
    check(server, data, "s1", second, FIRST, f"\n\n{SECOND}")
    assert turn(server, None, FIRST) == first
    assert turn(server, None, SECOND) != second


def test_two_newlines_come_before_a_turn_that_has_none(server: LiveServer, data: Path) -> None:
    for session_id, text in (("n1", SECOND), ("n2", f"\n\n{SECOND}")):
        turn(server, session_id, FIRST)
        turn(server, session_id, text)
    assert log_of(data, "n1") == log_of(data, "n2")
    turn(server, "n1", "")
    assert log_of(data, "n1")[-1].read == []


def test_a_stop_is_not_part_of_what_is_remembered(server: LiveServer, data: Path) -> None:
    """K6."""
    free = turn(server, None, FIRST, max_tokens=40)
    stop = free[6:9]
    cut = free[: free.index(stop)]
    assert turn(server, "k6", FIRST, max_tokens=40, stop_tokens=[stop]) == cut
    tokenizer = server.registry.first.tokenizer
    assert tokenizer is not None
    assert tokenizer.decode(log_of(data, "k6")[0].written) == cut


def test_without_an_id_nothing_is_kept(server: LiveServer) -> None:
    before = sessions(server)
    turn(server, None, FIRST)
    assert sessions(server) == before


def test_a_stream_is_one_row_and_is_remembered(server: LiveServer, data: Path) -> None:
    said = events(server, STATE, {"session_id": "st", "contents": [FIRST], **GREEDY, "chunk_size": 1})
    assert joined(said, 1) == [turn(server, None, FIRST)]
    check(server, data, "st", turn(server, "st", SECOND), FIRST, f"\n\n{SECOND}")


def test_status_and_delete(server: LiveServer) -> None:
    turn(server, "d1", FIRST)
    card = sessions(server)["d1"]
    assert card["cache_level"] == "Database (Disk)"
    assert len(card["last_updated"]) == len("2026-01-01 00:00:00")
    assert card["timestamp"] > 1e9
    gone = {"status": "success", "message": "Session d1 deleted successfully"}
    assert post(server, "/state/delete", {"session_id": "d1"}) == gone
    missing = (404, {"status": "not_found", "message": "Session d1 not found in database"})
    assert refused(server, "/state/delete", {"session_id": "d1"}) == missing
    assert refused(server, "/state/delete", {}) == (400, {"error": "Missing session_id parameter"})
    assert turn(server, "d1", SECOND) == turn(server, None, SECOND)
    assert server.http.post("/state/status").status_code == 200


def test_one_prompt_a_turn(server: LiveServer) -> None:
    for path in (STATE, TREE):
        body = {"session_id": "two", "dialogue_idx": 0, "contents": [FIRST, SECOND], **GREEDY}
        status, said = refused(server, path, body)
        assert status == 400
        assert "single prompt" in said["error"]
        assert refused(server, path, body | {"contents": []})[0] == 400
    assert "two" not in sessions(server)


def branch(server: LiveServer, tree: str, parent: int, text: str) -> tuple[int, str]:
    reply = post(server, TREE, {"session_id": tree, "dialogue_idx": parent, "contents": [text], **GREEDY})
    assert reply["id"] == "rwkv7-multi-state"
    return reply["dialogue_idx"], texts(reply)[0]


def test_a_tree_of_turns(server: LiveServer, data: Path) -> None:
    tokenizer = server.registry.first.tokenizer
    assert tokenizer is not None

    def text_of(number: int) -> str:
        return tokenizer.decode(session_log.tokens_of(log_of(data, f"t:{number}")))

    third = "User: x\n\nAssistant:"
    grown: dict[int, str] = {0: ""}
    read: dict[int, list[str]] = {0: []}
    for number, (parent, text) in enumerate([(0, FIRST), (1, SECOND), (1, third), (2, SECOND), (0, SECOND)], start=1):
        found, answer = branch(server, "t", parent, text)
        assert found == number
        new = f"\n\n{text}" if parent else text
        grown[number], read[number] = text_of(number), [*read[parent], new]
        assert grown[number] == grown[parent] + new + answer
        check(server, data, f"t:{number}", answer, *read[number])
    assert {f"t:{number}" for number in range(1, 6)} <= set(sessions(server))


def test_a_stream_says_which_turn_it_became(server: LiveServer) -> None:
    said = events(server, TREE, {"session_id": "m", "dialogue_idx": 0, "contents": [FIRST], **GREEDY})
    assert said[-1] == {"object": "multi_state.dialogue_idx", "session_id": "m:1", "dialogue_idx": 1}
    assert joined(said, 1) == [turn(server, None, FIRST)]


def test_what_a_tree_refuses(server: LiveServer) -> None:
    body = {"session_id": "r", "dialogue_idx": 5, "contents": [FIRST]}
    assert refused(server, TREE, body) == (404, {"error": "State not found for dialogue_idx=5"})
    without = {name: value for name, value in body.items() if name != "dialogue_idx"}
    assert refused(server, TREE, without) == (400, {"error": "Missing dialogue_idx parameter"})
    assert refused(server, TREE, {"dialogue_idx": 0, "contents": ["x"]}) == (
        400,
        {"error": "Missing session_id parameter"},
    )


def test_a_tree_is_deleted_as_a_whole(server: LiveServer) -> None:
    branch(server, "del", 0, FIRST)
    branch(server, "del", 1, SECOND)
    branch(server, "delta", 0, FIRST)
    assert refused(server, "/state/delete", {"session_id": "del"})[0] == 404
    assert post(server, "/state/delete", {"session_id": "del", "delete_prefix": True})["status"] == "success"
    left = sessions(server)
    assert "delta:1" in left
    assert not any(name.startswith("del:") for name in left)
    assert branch(server, "del", 0, FIRST)[0] == 1


async def test_turns_that_begin_together_get_numbers_of_their_own(server: LiveServer) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:

        async def ask(text: str) -> dict[str, Any]:
            body = {"session_id": "par", "dialogue_idx": 0, "contents": [text], **GREEDY}
            return (await http.post(TREE, json=body)).json()

        replies = await asyncio.gather(*(ask(f"User: {number}\n\nAssistant:") for number in range(6)))
    assert sorted(reply["dialogue_idx"] for reply in replies) == [1, 2, 3, 4, 5, 6]


async def test_turns_of_one_session_wait_for_each_other(server: LiveServer) -> None:
    """K7: no update is lost."""
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:

        async def ask() -> dict[str, Any]:
            return (await http.post(STATE, json={"session_id": "q", "contents": [FIRST], **GREEDY})).json()

        replies = await asyncio.gather(*(ask() for _ in range(3)))
    read = sorted(reply["usage"]["prompt_tokens"] for reply in replies)
    assert read[0] < read[1] < read[2]


@pytest.mark.parametrize("turns", [0, 1])
def test_who_leaves_leaves_the_session_as_it_was(server: LiveServer, data: Path, turns: int) -> None:
    """K7: whether it was new or not."""
    session_id = f"gone{turns}"
    for _ in range(turns):
        turn(server, session_id, FIRST)
    before = log_of(data, session_id)
    endless = {"max_tokens": 100_000, "stop_tokens": [], "ignore_eos": True, "stream": True, "chunk_size": 1}
    body = {"session_id": session_id, "contents": [SECOND], **GREEDY, **endless}
    with server.http.stream("POST", STATE, json=body) as reply, contextlib.closing(reply.iter_lines()) as lines:
        next(lines)
    server.wait_idle()
    assert log_of(data, session_id) == before
    answer = turn(server, session_id, SECOND)
    check(server, data, session_id, answer, *((FIRST, f"\n\n{SECOND}") if turns else (SECOND,)))


def test_a_server_that_is_started_again_goes_on(model_path: Path, tmp_path: Path) -> None:
    with live_server(settings_for(model_path, data_dir=tmp_path)) as live:
        turn(live, "s", FIRST)
        branch(live, "t", 0, FIRST)
    with live_server(settings_for(model_path, data_dir=tmp_path)) as live:
        answer = turn(live, "s", SECOND)
        check(live, tmp_path, "s", answer, FIRST, f"\n\n{SECOND}")
        assert branch(live, "t", 1, SECOND) == (2, answer)


def test_keys_do_not_share_sessions(model_path: Path) -> None:
    """K8."""
    with live_server(settings_for(model_path, api_keys=["a", "b"])) as live:
        for key, found in (("a", 1), ("b", 0)):
            if found:
                post(live, STATE, {"session_id": "s", "contents": [FIRST], "password": key, **GREEDY})
            report = live.http.post("/state/status", json={"password": key}).json()
            assert report["total_sessions"] == found
        assert live.http.post("/state/delete", json={"session_id": "s", "password": "b"}).status_code == 404

"""rwkv_lightning's known defect K8, of the storage of conversations, is not so here: for K6 and K7 see
test_lightning_sessions.py."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conformance.lightning import post, refused
from tests.live import LiveServer, live_server, settings_for
from tests.random_models import random_rwkv7, write_safetensors
from tests.text.vocabs import with_bytes, write_vocab

STATE, TREE = "/state/chat/completions", "/multi_state/chat/completions"
KEYS = ("a", "b")


@pytest.fixture(scope="module")
def server(model_path: Path, data: Path) -> Iterator[LiveServer]:
    with live_server(settings_for(model_path, data_dir=data, api_keys=list(KEYS))) as live:
        yield live


def body_of(session_id: str, key: str = "a", **more: Any) -> dict[str, Any]:
    known = {"dialogue_idx": 0, "max_tokens": 4, "ignore_eos": True, "stop_tokens": []}
    return {"session_id": session_id, "contents": ["User: hi\n\nAssistant:"], "password": key, **known, **more}


def turn(server: LiveServer, session_id: str, key: str = "a", **more: Any) -> dict[str, Any]:
    return post(server, STATE, body_of(session_id, key, **more))


def ids(server: LiveServer, key: str = "a") -> list[str]:
    report = post(server, "/state/status", {"password": key})
    counts = [report[f"{level}_count"] for level in ("l1_cache", "l2_cache", "database")]
    found = [session["session_id"] for session in report["sessions"]]
    assert report["total_sessions"] == sum(counts) == len(found) == len(set(found))
    return found


async def test_k8_a_session_is_counted_once(server: LiveServer) -> None:
    """However many turns it has, and while one of them is being written."""
    before = ids(server)
    for session_id in ("once", "once", "other", "once"):
        turn(server, session_id)
    assert sorted(ids(server)) == sorted([*before, "once", "other"])
    endless = body_of("once", max_tokens=1_000_000, stream=True, chunk_size=1)
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=30) as http,
        http.stream("POST", STATE, json=endless) as reply,
    ):
        await anext(reply.aiter_lines())
        assert sorted(ids(server)) == sorted([*before, "once", "other"])
    server.wait_idle()


async def test_k8_many_sessions_at_once_lose_nothing(server: LiveServer) -> None:
    """More than rows can run, their turns in any order: each has its two in the end."""
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        turns = [http.post(STATE, json=body_of(f"many{number % 20}")) for number in range(40)]
        replies = await asyncio.gather(*turns, *(http.post("/state/status", json={"password": "a"}) for _ in range(5)))
    assert [reply.status_code for reply in replies] == [200] * 45
    assert {f"many{number}" for number in range(20)} <= set(ids(server))
    counts = [reply.json()["usage"]["prompt_tokens"] for reply in replies[:40]]
    assert len(set(counts)) == 2
    assert all(counts[number] != counts[number + 20] for number in range(20))


def test_k8_another_model_does_not_go_on(server: LiveServer, data: Path, tmp_path: Path) -> None:
    """And what there is stays."""
    turn(server, "first's")
    post(server, TREE, body_of("tree"))
    write_vocab(tmp_path / "other.vocab.txt", with_bytes([], first_id=261))
    path = write_safetensors(tmp_path / "other.safetensors", random_rwkv7(layers=2, width=64, vocab=300, seed=9))
    with live_server(settings_for(path, data_dir=data, api_keys=list(KEYS))) as other:
        for route, body in ((STATE, body_of("first's")), (TREE, body_of("tree", dialogue_idx=1))):
            status, said = refused(other, route, body)
            assert (status, list(said)) == (400, ["error"])
            assert "another model, tiny" in said["error"]
    assert turn(server, "first's")["usage"]["prompt_tokens"] > turn(server, "new")["usage"]["prompt_tokens"]


def test_k8_a_key_sees_and_changes_only_its_own(server: LiveServer) -> None:
    fresh = turn(server, "s")["usage"]["prompt_tokens"]
    assert post(server, TREE, body_of("t"))["dialogue_idx"] == 1
    assert ids(server, "b") == []
    for name in ("s", "t:1"):
        assert refused(server, "/state/delete", {"session_id": name, "password": "b"})[0] == 404
    post(server, "/state/delete", {"session_id": "t", "delete_prefix": True, "password": "b"})
    assert refused(server, TREE, body_of("t", "b", dialogue_idx=1))[0] == 404
    assert turn(server, "s", "b")["usage"]["prompt_tokens"] == fresh
    assert ids(server, "b") == ["s"]
    assert {"s", "t:1"} <= set(ids(server))
    assert turn(server, "s")["usage"]["prompt_tokens"] > fresh

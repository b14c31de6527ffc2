"""/v1/states over HTTP: kept, sent to and fro, named, deleted; initial states loaded while the server runs."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.live import LiveServer, live_server, settings_for
from tests.random_models import normal, random_rwkv7, write_pth, write_safetensors
from wingbeat.config import Settings
from wingbeat.server.states_schema import MAX_PAGE

PROMPT = [60, 70, 80, 261]
BINARY = {"content-type": "application/octet-stream"}
KEYS = ("first-key", "second-key")


@pytest.fixture(scope="module")
def keyed(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    tuned = time_states(tmp_path_factory.mktemp("keyed") / "given.pth", 9)
    settings = settings_for(model_path, api_keys=list(KEYS), states={"given": tuned})
    with live_server(settings) as live:
        live.http.headers["authorization"] = f"Bearer {KEYS[0]}"
        yield live


def time_states(path: Path, seed: int, width: int = 64) -> Path:
    """A tuned initial state of the tests' model."""
    heads = width // 64
    return write_pth(path, {f"blocks.{i}.att.time_state": normal(seed, str(i), heads, 64, 64) for i in range(2)})


def ok(reply: httpx.Response) -> dict[str, Any]:
    assert reply.status_code == 200, reply.text
    return reply.json()


def refusal(reply: httpx.Response) -> tuple[int, str | None, str | None]:
    error = reply.json()["error"]
    return reply.status_code, error["code"], error["param"]


def text(server: LiveServer, **body: Any) -> str:
    body = {"ignore_eos": True, "max_tokens": 8, "temperature": 0, **body}
    return ok(server.http.post("/v1/completions", json=body))["choices"][0]["text"]


def new_state(server: LiveServer, **body: Any) -> str:
    """The id of the state after some tokens."""
    body = {"prompt": PROMPT, "max_tokens": 3, "temperature": 0, "return_state": True, "ignore_eos": True, **body}
    return ok(server.http.post("/v1/completions", json=body))["choices"][0]["state"]


def delete_all(server: LiveServer) -> None:
    for state in ok(server.http.get("/v1/states", params={"limit": MAX_PAGE}))["data"]:
        ok(server.http.delete(f"/v1/states/{state['id']}"))


def test_a_state_goes_out_as_a_file_and_comes_back(server: LiveServer) -> None:
    id = new_state(server)
    about = ok(server.http.get(f"/v1/states/{id}"))
    said = [about[field] for field in ("id", "object", "kind", "name", "model")]
    assert said == [id, "state", "snapshot", None, "tiny"]
    assert about["position"] == 7
    assert about["expires_at"] - about["created_at"] == 24 * 3600
    reply = server.http.get(f"/v1/states/{id}/content")
    assert reply.content == server.http.get(f"/openai/v1/states/{id}/download").content
    assert reply.headers["content-disposition"] == f"attachment; filename*=utf-8''{id}.safetensors"
    assert (len(reply.content), hashlib.sha256(reply.content).hexdigest()) == (about["bytes"], about["checksum"])
    sent = ok(server.http.post("/v1/states", params={"name": "sent"}, content=reply.content, headers=BINARY))
    body = {"state": base64.b64encode(reply.content).decode(), "name": "coded"}
    coded = ok(server.http.post("/v1/states", json=body))
    assert {sent["checksum"], coded["checksum"]} == {about["checksum"]}
    assert (sent["name"], sent["expires_at"], sent["model"], sent["position"]) == ("sent", None, "tiny", 7)
    assert len({text(server, state=each) for each in (id, "sent", coded["id"])}) == 1
    delete_all(server)


def test_names_lists_and_the_end(server: LiveServer) -> None:
    delete_all(server)
    ids = [new_state(server) for _ in range(3)]
    saved = ok(server.http.post("/v1/states", json={"state_id": ids[0], "name": "saved"}))
    assert saved["id"] != ids[0]
    taken = ("name_taken", "name")
    assert refusal(server.http.post("/v1/states", json={"state_id": ids[1], "name": "saved"})) == (409, *taken)
    renamed = ok(server.http.patch("/v1/states/saved", json={"name": "renamed ü"}))
    assert (renamed["id"], renamed["name"]) == (saved["id"], "renamed ü")
    assert ok(server.http.post(f"/v1/states/{ids[1]}", json={"name": "saved"}))["expires_at"] is None
    assert refusal(server.http.patch(f"/v1/states/{ids[2]}", json={"name": "saved"})) == (409, *taken)
    assert ok(server.http.get("/v1/states/renamed ü"))["id"] == saved["id"]

    first = ok(server.http.get("/v1/states", params={"limit": 3}))
    rest = ok(server.http.get("/v1/states", params={"limit": 3, "after": first["last_id"]}))
    assert (first["has_more"], rest["has_more"], first["first_id"]) == (True, False, saved["id"])
    assert {state["id"] for state in first["data"] + rest["data"]} == {*ids, saved["id"]}
    for limit in ("0", "101", "many", "-1", "1e9", ""):
        assert refusal(server.http.get("/v1/states", params={"limit": limit}))[2] == "limit"
    assert refusal(server.http.get("/v1/states", params={"after": "st_none"})) == (404, "state_not_found", "after")

    assert ok(server.http.delete("/v1/states/saved")) == {"id": ids[1], "object": "state", "deleted": True}
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        assert refusal(server.http.request(method, f"/v1/states/{ids[1]}{path}"))[:2] == (404, "state_not_found")
    gone = server.http.post("/v1/completions", json={"prompt": "x", "state": ids[1]})
    assert refusal(gone)[:2] == (404, "state_not_found")
    delete_all(server)
    assert ok(server.http.get("/v1/states")) == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "state"),
        ({"state_id": "x", "state": "y"}, "state"),
        ({"state": "no base64!"}, "state"),
        ({"state": "AAAA"}, "state"),
        ({"state": "AAAA", "kind": "initial"}, "filename"),
        ({"state": "AAAA", "kind": "initial", "filename": "x.exe"}, "filename"),
        ({"state": "AAAA", "kind": "initial", "filename": "x.pth"}, "state"),
        ({"state": "AAAA", "name": "../x"}, "state"),
        ({"state": "AAAA", "other": 1}, "other"),
        ({"state_id": "x", "name": ""}, "name"),
    ],
)
def test_what_is_not_kept(server: LiveServer, body: dict[str, Any], param: str) -> None:
    status, _, found = refusal(server.http.post("/v1/states", json=body))
    assert (status, found) == (400, param)


def test_uploads_are_bounded_and_checked(model_path: Path) -> None:
    settings = settings_for(model_path, max_states_mb_per_key=0.2)
    with live_server(settings) as live:
        content = live.http.get(f"/v1/states/{new_state(live)}/content").content

        def pieces(data: bytes) -> Iterator[bytes]:
            yield from (data[start : start + 10_000] for start in range(0, len(data), 10_000))

        def send(data: bytes | Iterator[bytes], **query: str) -> httpx.Response:
            return live.http.post("/v1/states", params=query, content=data, headers=BINARY)

        damaged = bytes([*content[:-1], content[-1] ^ 1])
        for wrong in (damaged, content[:-10], b"", b"x" * 100):
            assert refusal(send(wrong)) == (400, "state_refused", "state")
        assert refusal(send(content, kind="other")) == (400, "invalid_value", "kind")
        assert refusal(send(b"x" * 300_000)) == refusal(send(pieces(b"x" * 300_000))) == (413, "states_full", "state")
        assert ok(send(pieces(content), name="streamed"))["bytes"] == len(content)
        replies = [send(content, name=f"copy {number}") for number in range(10)]
        assert refusal(replies[-1]) == (413, "states_full", "state")
        assert "delete some" in replies[-1].json()["error"]["message"]
        kept = ok(live.http.get("/v1/states", params={"limit": MAX_PAGE}))["data"]
        files = sorted(path.stem for path in (settings.states_folder / "stored").iterdir())
        assert files == sorted(state["id"] for state in kept)


def test_another_keys_states_are_as_absent_ones(keyed: LiveServer) -> None:
    other = {"authorization": f"Bearer {KEYS[1]}"}
    id = new_state(keyed)
    ok(keyed.http.patch(f"/v1/states/{id}", json={"name": "mine"}))
    absent = keyed.http.get("/v1/states/st_0", headers=other).json()["error"]["message"]
    for reference in (id, "mine"):
        for method, path in (("GET", ""), ("GET", "/content"), ("GET", "/download"), ("DELETE", ""), ("PATCH", "")):
            json = {"name": "theirs"} if method == "PATCH" else None
            reply = keyed.http.request(method, f"/v1/states/{reference}{path}", headers=other, json=json)
            assert refusal(reply)[:2] == (404, "state_not_found")
            assert reply.json()["error"]["message"] == absent.replace("st_0", reference)
        body = {"prompt": "x", "state": reference, "max_tokens": 1}
        assert refusal(keyed.http.post("/v1/completions", json=body, headers=other))[:2] == (404, "state_not_found")
        body = {"state_id": reference, "name": "theirs"}
        assert refusal(keyed.http.post("/v1/states", json=body, headers=other))[:2] == (404, "state_not_found")
    assert refusal(keyed.http.get("/v1/states", params={"after": id}, headers=other))[0] == 404
    assert ok(keyed.http.get("/v1/states", headers=other))["data"] == []
    assert refusal(httpx.get(f"{keyed.url}/v1/states"))[0] == 401
    assert text(keyed, state="mine")


def upload(server: LiveServer, path: Path, **query: str) -> dict[str, Any]:
    query = {"kind": "initial", "filename": path.name, **query}
    return ok(server.http.post("/v1/states", params=query, content=path.read_bytes(), headers=BINARY))


def loaded(server: LiveServer) -> dict[str, bool]:
    """The names that requests may use, with which is the default."""
    return {each["name"]: each["default"] for each in ok(server.http.get("/v1/states/load"))["data"]}


def test_an_initial_state_is_loaded_used_made_the_default_and_dropped(model_path: Path, tmp_path: Path) -> None:
    settings = settings_for(model_path, states={"given": time_states(tmp_path / "given.pth", 5)})
    poet, clerk = time_states(tmp_path / "poet.pth", 1), time_states(tmp_path / "clerk.pth", 2)
    expected = {}
    with live_server(settings_for(model_path, states={"poet": poet, "clerk": clerk})) as known:
        for name in ("none", "poet", "clerk"):
            expected[name] = text(known, prompt=PROMPT, state=name)
    assert len(set(expected.values())) == 3

    with live_server(settings) as live:
        file = upload(live, poet)
        assert (file["kind"], file["model"], file["position"]) == ("initial", None, 0)
        early = refusal(live.http.post("/v1/completions", json={"prompt": PROMPT, "state": file["id"]}))
        assert early == (400, "state_refused", "state")
        entry = ok(live.http.post("/v1/states/load", json={"state_id": file["id"], "name": "poet"}))
        assert entry == {
            "name": "poet",
            "object": "initial_state",
            "default": False,
            "state_id": file["id"],
            "file": None,
        }
        for name in ("poet", file["id"]):
            assert text(live, prompt=PROMPT, state=name) == expected["poet"]
        assert text(live, prompt=PROMPT) == expected["none"]
        assert refusal(live.http.delete(f"/v1/states/{file['id']}")) == (409, "state_in_use", "state")

        second = upload(live, clerk, name="the clerk")
        ok(live.http.post("/v1/states/load", json={"state_id": "the clerk", "name": "poet", "default": True}))
        assert text(live, prompt=PROMPT, state="poet") == text(live, prompt=PROMPT) == expected["clerk"]
        assert text(live, prompt=PROMPT, state="none") == expected["none"]
        assert loaded(live) == {"none": False, "given": False, "poet": True}
        for name, code in (("given", "name_taken"), ("none", "state_refused"), ("a/b", "state_refused")):
            reply = live.http.post("/v1/states/load", json={"state_id": second["id"], "name": name})
            assert refusal(reply)[1:] == (code, "name")

    with live_server(settings) as live:  # after a restart
        assert text(live, prompt=PROMPT) == expected["clerk"]
        assert text(live, prompt=PROMPT, state="poet") == expected["clerk"]
        assert loaded(live)["poet"]
        ok(live.http.post("/v1/states/load", json={"state_id": file["id"], "name": "poet"}))
        assert text(live, prompt=PROMPT) == expected["none"]
        assert text(live, prompt=PROMPT, state="poet") == expected["poet"]
        assert ok(live.http.delete("/v1/states/load/poet"))["deleted"]
        assert refusal(live.http.delete("/v1/states/load/poet"))[:2] == (404, "state_not_found")
        assert refusal(live.http.delete("/v1/states/load/given"))[:2] == (404, "state_not_found")
        reply = live.http.post("/v1/completions", json={"prompt": PROMPT, "state": "poet"})
        assert refusal(reply) == (404, "state_not_found", "state")
        ok(live.http.delete(f"/v1/states/{file['id']}"))


def test_files_of_the_server_are_loaded_only_where_that_is_allowed(model_path: Path, tmp_path: Path) -> None:
    def settings(**changes: Any) -> Settings:
        return settings_for(model_path, data_dir=tmp_path / "data", models_dir=tmp_path / "models", **changes)

    folder = settings().states_folder
    for each in (folder, tmp_path / "models"):
        each.mkdir(parents=True)
    time_states(folder / "here.pth", 1)
    time_states(tmp_path / "models" / "there.pth", 2)
    time_states(tmp_path / "outside.pth", 3)
    time_states(folder / "wide.pth", 3, width=128)
    values = {f"blocks.{i}.att.time_state": normal(1, str(i), 1, 64, 64).swapaxes(1, 2).copy() for i in range(2)}
    write_safetensors(folder / "swapped.st", values)

    with live_server(settings()) as live:
        reply = live.http.post("/v1/states/load", json={"file": "here.pth"})
        assert refusal(reply) == (403, "loading_not_allowed", "file")
    with live_server(settings(allow_load=True)) as live:
        for file in ("here.pth", "there.pth", "swapped.st"):
            assert ok(live.http.post("/v1/states/load", json={"file": file}))["file"] == file
        texts = [text(live, prompt=PROMPT, state=name) for name in ("here", "there", "swapped")]
        assert texts[0] == texts[2] != texts[1]
        for hostile in ("../outside.pth", str(tmp_path / "outside.pth"), "..", "stored", "../states.sqlite3", "nul\0l"):
            reply = live.http.post("/v1/states/load", json={"file": hostile})
            assert refusal(reply) == (404, "state_not_found", "file")
        reply = live.http.post("/v1/states/load", json={"file": "wide.pth"})
        message = reply.json()["error"]["message"]
        assert (reply.status_code, "blocks.0.att.time_state" in message, str(tmp_path) in message) == (400, True, False)
        assert "wide" not in loaded(live)
        for body in ({}, {"file": "here.pth", "state_id": "x"}):
            assert refusal(live.http.post("/v1/states/load", json=body))[2] == "state_id"


def test_keys_load_initial_states_of_their_own(keyed: LiveServer, tmp_path: Path) -> None:
    other = {"authorization": f"Bearer {KEYS[1]}"}
    body = {"prompt": PROMPT, "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    plain = text(keyed, prompt=PROMPT)
    file = upload(keyed, time_states(tmp_path / "poet.pth", 1))
    ok(keyed.http.post("/v1/states/load", json={"state_id": file["id"], "name": "poet", "default": True}))
    assert text(keyed, prompt=PROMPT) == text(keyed, prompt=PROMPT, state="poet") != plain
    theirs = keyed.http.get("/v1/states/load", headers=other).json()["data"]
    assert [each["name"] for each in theirs if each["default"]] == ["none"]
    assert {each["name"] for each in theirs} == {"none", "given"}
    (inner,) = [name for name in keyed.registry.first.client.states if name.endswith(":poet")]
    for name in ("poet", file["id"], inner):
        reply = keyed.http.post("/v1/completions", json={**body, "state": name}, headers=other)
        assert refusal(reply) == (404, "state_not_found", "state")
        assert inner not in reply.json()["error"]["message"].replace(repr(name), "")
    assert ok(keyed.http.post("/v1/completions", json=body, headers=other))["choices"][0]["text"] == plain
    assert refusal(keyed.http.delete("/v1/states/load/poet", headers=other))[0] == 404
    assert ok(keyed.http.delete("/v1/states/load/poet"))["deleted"]
    assert text(keyed, prompt=PROMPT) == plain


def test_a_state_of_another_model_is_not_loaded_into_this_one(model_path: Path, tmp_path: Path) -> None:
    """What was loaded belongs to one model: the server starts with another on the same folder."""
    data = tmp_path / "data"
    with live_server(settings_for(model_path, data_dir=data)) as live:
        file = upload(live, time_states(tmp_path / "poet.pth", 1))
        ok(live.http.post("/v1/states/load", json={"state_id": file["id"], "name": "poet", "default": True}))
    other = write_safetensors(tmp_path / "other.safetensors", random_rwkv7(layers=2, width=64, vocab=300, seed=8))
    with live_server(settings_for(other, data_dir=data)) as live:
        assert loaded(live) == {"none": True}
        assert text(live, prompt=PROMPT) == text(live, prompt=PROMPT, state="none")


def test_a_sessions_state_is_kept_as_far_as_it_has_come(keyed: LiveServer) -> None:
    other = {"authorization": f"Bearer {KEYS[1]}"}
    body = {"max_tokens": 5, "temperature": 0, "ignore_eos": True}
    for prompt in (PROMPT, [71]):
        ok(keyed.http.post("/v1/completions", json={**body, "prompt": prompt, "session_id": "tale"}))
        saved = ok(keyed.http.post("/v1/states", json={"session_id": "tale", "name": f"after {prompt[0]}"}))
    assert (saved["position"], saved["expires_at"], saved["model"]) == (15, None, "tiny")
    expected = ok(keyed.http.post("/v1/completions", json={**body, "prompt": [72], "session_id": "tale"}))
    assert text(keyed, state="after 71", prompt=[72], max_tokens=5) == expected["choices"][0]["text"]
    assert text(keyed, state="after 60", prompt=[71, 72]) != text(keyed, state="after 71", prompt=[71, 72])
    for headers, session in ((other, "tale"), ({}, "no tale")):
        reply = keyed.http.post("/v1/states", json={"session_id": session, "name": "x"}, headers=headers)
        assert refusal(reply) == (404, "session_not_found", "session_id")
    taken = keyed.http.post("/v1/states", json={"session_id": "tale", "name": "after 71"})
    assert refusal(taken) == (409, "name_taken", "name")

"""`return_state` and `state` of completions, chats and responses: what goes on from a state never stopped."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.live import VOCAB, LiveServer, live_server, settings_for, write_model
from tests.random_models import random_rwkv7, write_safetensors
from wingbeat.engine.snapshot import StateSnapshot
from wingbeat.llm import demo_model_path

PROMPT = [60, 70, 80, 261, 90, 264]
GREEDY = {"temperature": 0, "frequency_penalty": 0.4, "presence_penalty": 0.2}
SEEDED = {"seed": 7, "frequency_penalty": 0.4, "presence_penalty": 0.2, "repetition_penalty": 1.1, "top_p": 0.9}


@pytest.fixture(scope="module")
def demo() -> Iterator[LiveServer]:
    with live_server(settings_for(demo_model_path(), dtype="auto")) as live:
        yield live


def post(server: LiveServer, path: str, **body: Any) -> dict[str, Any]:
    reply = server.http.post(path, json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def complete(server: LiveServer, **body: Any) -> list[dict[str, Any]]:
    return post(server, "/v1/completions", **{"ignore_eos": True, **body})["choices"]


def refused(server: LiveServer, path: str = "/v1/completions", **body: Any) -> tuple[int, str]:
    reply = server.http.post(path, json=body)
    error = reply.json()["error"]
    assert error["param"] in ("state", "return_state"), error
    return reply.status_code, error["message"]


def streamed(server: LiveServer, path: str, **body: Any) -> list[dict[str, Any]]:
    lines = server.http.post(path, json={**body, "stream": True}).text.splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def resumed(server: LiveServer, sampling: dict[str, Any], form: str = "id", pieces: tuple[int, ...] = (5, 1, 8)) -> str:
    """The text of an answer that was cut into pieces, each from the state after the last."""
    text, state = "", {"prompt": PROMPT}
    for count in pieces:
        (choice,) = complete(server, **state, **sampling, max_tokens=count, return_state=form)
        text += choice["text"]
        state = {"state": choice["state"]}
    return text


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
@pytest.mark.parametrize("form", ["id", "base64"])
def test_an_answer_in_pieces_is_the_answer(server: LiveServer, sampling: dict[str, Any], form: str) -> None:
    (whole,) = complete(server, prompt=PROMPT, **sampling, max_tokens=14)
    assert "state" not in whole
    assert resumed(server, sampling, form) == whole["text"]


def test_in_a_batch_too(server: LiveServer) -> None:
    (whole,) = complete(server, prompt=PROMPT, **SEEDED, max_tokens=14)
    with ThreadPoolExecutor(6) as pool:
        others = [pool.submit(complete, server, prompt=[65 + i] * 9, max_tokens=40, n=2) for i in range(3)]
        texts = [pool.submit(resumed, server, SEEDED, "id", pieces) for pieces in ((7, 7), (1, 12, 1), (5, 5, 4))]
        assert {text.result() for text in texts} == {whole["text"]}
        assert all(len(other.result()) == 2 for other in others)


def test_one_state_forks_into_many_answers(server: LiveServer) -> None:
    (half,) = complete(server, prompt=PROMPT, **GREEDY, max_tokens=5, return_state=True)
    forks = complete(server, state=half["state"], n=4, max_tokens=12, temperature=1)
    assert len({fork["text"] for fork in forks}) == 4
    alone = [
        complete(server, state=half["state"], prompt=prompt, max_tokens=9, temperature=0) for prompt in ([65], [66])
    ]
    both = complete(server, state=half["state"], prompt=[[65], [66]], max_tokens=9, temperature=0)
    assert [choice["text"] for choice in both] == [choice["text"] for (choice,) in alone]


def test_each_choice_has_its_own_state(server: LiveServer) -> None:
    choices = complete(server, prompt=PROMPT, n=3, seed=3, max_tokens=6, return_state=True)
    wholes = complete(server, prompt=PROMPT, n=3, seed=3, max_tokens=12)
    assert len({choice["state"] for choice in choices}) == 3
    for choice, whole in zip(choices, wholes, strict=True):
        (rest,) = complete(server, state=choice["state"], max_tokens=6)
        assert choice["text"] + rest["text"] == whole["text"]


def test_of_several_only_those_that_are_given_are_kept(server: LiveServer) -> None:
    before = len(server.http.get("/v1/states?limit=100").json()["data"])
    (best,) = complete(server, prompt=PROMPT, best_of=3, seed=3, max_tokens=6, return_state=True)
    assert best["state"].startswith("st_")
    assert len(server.http.get("/v1/states?limit=100").json()["data"]) == before + 1


def test_a_stop_is_not_in_the_state(server: LiveServer) -> None:
    (whole,) = complete(server, prompt=PROMPT, **GREEDY, max_tokens=14)
    stop = whole["text"][6:8]
    (cut,) = complete(server, prompt=PROMPT, **GREEDY, max_tokens=14, stop=stop, return_state=True)
    assert cut["finish_reason"] == "stop"
    (rest,) = complete(server, state=cut["state"], temperature=0, max_tokens=1)
    (after,) = complete(server, prompt="", state=cut["state"], temperature=0, max_tokens=1)
    assert rest == after


def test_streams_tell_the_state_on_each_choices_last_chunk(server: LiveServer) -> None:
    body = {"prompt": PROMPT, "ignore_eos": True, "n": 2, "seed": 5, "max_tokens": 6}
    chunks = streamed(server, "/v1/completions", **body, return_state=True)
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    last = [choice for choice in choices if choice["finish_reason"]]
    assert {choice["index"]: choice["state"][:3] for choice in last} == {0: "st_", 1: "st_"}
    assert all("state" not in choice for choice in choices if not choice["finish_reason"])
    texts = ["".join(choice["text"] for choice in choices if choice["index"] == index) for index in (0, 1)]
    assert texts == [choice["text"] for choice in complete(server, **body, return_state=True)]
    (chat,) = [
        choice
        for chunk in streamed(server, "/v1/chat/completions", messages=[said("x")], max_tokens=4, return_state=True)
        for choice in chunk["choices"]
        if choice["finish_reason"]
    ]
    assert complete(server, state=chat["state"], max_tokens=2)


def said(text: str, role: str = "user") -> dict[str, str]:
    return {"role": role, "content": text}


def chat(server: LiveServer, *messages: dict[str, str], **body: Any) -> dict[str, Any]:
    return post(server, "/v1/chat/completions", messages=[*messages], temperature=0, max_tokens=40, **body)["choices"][
        0
    ]


def test_a_turn_from_a_state_is_the_turn_of_the_whole_conversation(demo: LiveServer) -> None:
    first, second = said("What is RWKV?"), said("What is wingbeat?")
    answer = chat(demo, first, return_state=True)
    assert answer["finish_reason"] == "stop"
    whole = chat(demo, first, said(answer["message"]["content"], "assistant"), second)
    assert chat(demo, second, state=answer["state"])["message"] == whole["message"]
    response = post(
        demo, "/v1/responses", input="What is wingbeat?", state=answer["state"], temperature=0, max_output_tokens=40
    )
    assert response["output"][0]["content"][0]["text"] == whole["message"]["content"]


def test_a_chat_goes_on_where_it_was_cut_off(demo: LiveServer) -> None:
    question = said("What is RWKV?")
    whole = chat(demo, question)["message"]["content"]
    half = post(demo, "/v1/chat/completions", messages=[question], temperature=0, max_tokens=5, return_state=True)[
        "choices"
    ][0]
    rest = chat(demo, state=half["state"])
    assert half["finish_reason"] == "length"
    assert half["message"]["content"] + rest["message"]["content"] == whole


def test_responses_tell_their_state_at_the_end(demo: LiveServer) -> None:
    body = {"input": "What is RWKV?", "temperature": 0, "max_output_tokens": 5, "return_state": True}
    whole = post(demo, "/v1/responses", **body)
    *earlier, last = streamed(demo, "/v1/responses", **body)
    assert all("state" not in event.get("response", {}) for event in earlier)
    texts = [complete(demo, state=reply["state"], temperature=0)[0]["text"] for reply in (whole, last["response"])]
    assert texts[0] == texts[1] != ""


def test_what_state_may_name_and_in_which_order(tmp_path: Path) -> None:
    settings = settings_for(write_model(tmp_path))
    folder = settings.states_folder
    with live_server(settings) as live:
        (half,) = complete(live, prompt=PROMPT, **GREEDY, max_tokens=5, return_state="base64")
        content = base64.b64decode(half["state"])
        (folder / "put here.safetensors").write_bytes(content)
        (folder / "notes.txt").write_text("no state")
        saved = post(live, "/v1/states", state=half["state"], name="mine")
        wrapped = base64.encodebytes(content).decode()
        given = (half["state"], wrapped, "put here.safetensors", "mine", saved["id"])
        assert len({complete(live, state=each, temperature=0)[0]["text"] for each in given}) == 1
        post(live, "/v1/states", state=half["state"], name="put here.safetensors")
        (folder / "put here.safetensors").write_bytes(b"never read: the kept state comes first")
        assert complete(live, state="put here.safetensors", temperature=0)
        assert refused(live, state="notes.txt", prompt="x")[0] == 400
        for hostile in (
            "../states.sqlite3",
            str(folder / "notes.txt"),
            "..",
            ".",
            "/etc/passwd",
            "stored",
            "a\0b",
            "é" * 200,
        ):
            status, message = refused(live, state=hostile, prompt="x")
            assert status == 404, hostile
            assert "there is no initial state" in message
            assert str(tmp_path) not in message
        assert refused(live, state=f"stored/{saved['id']}.safetensors", prompt="x")[0] == 404


def test_what_cannot_be_begun_from_is_refused(server: LiveServer, tmp_path: Path) -> None:
    other = write_safetensors(tmp_path / "other.safetensors", random_rwkv7(layers=2, width=64, vocab=VOCAB, seed=4))
    with live_server(settings_for(other)) as foreign:
        (choice,) = complete(foreign, prompt=PROMPT, max_tokens=2, return_state="base64")
    status, message = refused(server, state=choice["state"], prompt="x")
    assert (status, "made by other " in message, "is tiny " in message) == (400, True, True)

    (mine,) = complete(server, prompt=PROMPT, max_tokens=2, return_state="base64")
    path = tmp_path / "mine.safetensors"
    path.write_bytes(base64.b64decode(mine["state"]))
    snapshot, extra = StateSnapshot.load(path)
    arrays = snapshot.to_arrays()
    name, array = next(iter(arrays.items()))

    def changed(arrays: dict[str, np.ndarray], logits: np.ndarray | None) -> str:
        StateSnapshot.from_arrays(snapshot.fingerprint, snapshot.position, arrays, logits).save(path, extra)
        return base64.b64encode(path.read_bytes()).decode()

    logits = np.zeros(VOCAB, np.float32)
    wrong_shape = changed({**arrays, name: np.zeros((*array.shape, 2), np.float32)}, logits)
    missing = changed({k: v for k, v in arrays.items() if k != name}, logits)
    wrong_logits = changed(arrays, logits[1:])
    for state in (wrong_shape, missing, wrong_logits):
        status, message = refused(server, state=state, prompt="x")
        assert (status, "fields are not those" in message) == (400, True)
    answer = snapshot.continuation
    assert answer is not None
    for impossible in (
        {"generated": {VOCAB: 1}},
        {"generated": {-1: 1}},
        {"generated": {5: 10**12}},
        {"generated": {5: -1}},
        {"read": [VOCAB]},
        {"read": [1] * (VOCAB + 1)},
        {"seed": 2**64},
        {"choice": -1},
        {"choice": 2**40},
        {"undecoded": b"x" * 1000},
    ):
        made_up = msgspec.structs.replace(answer, **impossible)
        StateSnapshot.from_arrays(snapshot.fingerprint, 7, arrays, logits, made_up).save(path, extra)
        state = base64.b64encode(path.read_bytes()).decode()
        assert refused(server, state=state)[0] == 400, impossible
    no_logits = changed(arrays, None)
    assert complete(server, state=no_logits, prompt="x", max_tokens=1)
    for path_, body in (
        ("/v1/completions", {}),
        ("/v1/completions", {"prompt": ["x", ""]}),
        ("/v1/chat/completions", {}),
    ):
        status, message = refused(server, path_, state=no_logits, **body)
        assert (status, "what comes next" in message) == (400, True)
    data = bytearray(base64.b64decode(mine["state"]))
    data[-9] ^= 4
    assert refused(server, state=base64.b64encode(data).decode(), prompt="x") == (
        400,
        "state: what was sent was altered or damaged since it was saved: use another copy, or save it again.",
    )
    assert refused(server, state="no base64! " * 40, prompt="x")[0] == 400


def test_without_a_state_there_must_be_words(server: LiveServer) -> None:
    for path in ("/v1/completions", "/v1/chat/completions"):
        reply = server.http.post(path, json={})
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "missing_required_parameter")
    reply = server.http.post("/v1/chat/completions", json={"state": "none"})
    assert reply.status_code == 400


def test_no_room_is_said_before_anything_is_generated(model_path: Path) -> None:
    with live_server(settings_for(model_path, max_states_mb_per_key=0.2)) as live:
        assert complete(live, prompt=PROMPT, max_tokens=1, return_state=True)
        status, message = refused(live, prompt=PROMPT, n=8, max_tokens=1, return_state=True)
        assert (status, "delete some" in message) == (413, True)
        assert len(complete(live, prompt=PROMPT, n=8, max_tokens=1, return_state="base64")) == 8

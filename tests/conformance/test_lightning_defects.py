"""What is known to be wrong with rwkv_lightning, K1 to K22 of its specification, is not so here: how rows are sampled,
ended and refused. The other tests of this dialect name theirs, those of the engine's load are in
test_lightning_load.py, those of kept conversations in test_lightning_storage.py."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.lightning import V1, V2, events, joined, post, refused, texts
from tests.live import LiveServer, live_server, settings_for
from wingbeat.engine.messages import RowOutput

V1_PATH, V2_PATH, V3_PATH = (f"/v{version}/chat/completions" for version in (1, 2, 3))
BIG, FIM, STATE, TREE = (
    *("/big_batch/completions", "/FIM/v1/batch-FIM"),
    *("/state/chat/completions", "/multi_state/chat/completions"),
)
ROUTES = (V1_PATH, V2_PATH, V3_PATH, BIG, FIM, STATE, TREE)

DRAWN: dict[str, Any] = {"top_k": 0, "top_p": 1, "alpha_presence": 0, "alpha_frequency": 0, "temperature": 100}
"""Every token is nearly as likely as any other."""
ENDLESS: dict[str, Any] = {"stop_tokens": [], "ignore_eos": True}


def asked(path: str, prompt: str = "x", rows: int = 1) -> dict[str, Any]:
    """Rows of any route, whole."""
    gaps = {"prefix": [prompt] * rows, "suffix": [prompt] * rows}
    tree = {"session_id": f"k{path}", "dialogue_idx": 0} if path == TREE else {}
    return {**(gaps if path == FIM else {"contents": [prompt] * rows}), **tree, "stream": False}


def test_k2_v1_keeps_chunk_size(server: LiveServer) -> None:
    body = V1 | ENDLESS | {"contents": ["x"], "max_tokens": 16}
    counts = [len(events(server, V1_PATH, body | {"chunk_size": size})) for size in (1, 4, 16, 32)]
    assert counts[0] > 6
    assert counts[1:] == [4, 1, 1]


@pytest.mark.parametrize("path", [V2_PATH, STATE])
def test_k5_a_stop_may_end_within_a_token(server: LiveServer, path: str) -> None:
    body = asked(path) | DRAWN | ENDLESS | {"max_tokens": 400, "seed": 2}
    (free,) = texts(post(server, path, body))
    word = next(word for word in ("wing", "beat", "User") if word in free)
    for stop in (word[1:3], word[:3], word[1:]):
        assert texts(post(server, path, body | {"stop_tokens": [stop]})) == [free[: free.index(stop)]]


def test_k5_text_is_sent_with_its_token(server: LiveServer) -> None:
    """And not only after six more, whatever stops there are."""
    body = V1 | {"contents": ["x"], "max_tokens": 7, "ignore_eos": True, "chunk_size": 1}
    sent = [len(events(server, V1_PATH, body | {"stop_tokens": stops})) for stops in ([], ["\nUser:", "# ?" * 9])]
    assert sent[0] == sent[1] > 3


def test_k5_the_blank_line_before_a_label_does_not_dangle(server: LiveServer) -> None:
    body = asked(V2_PATH) | DRAWN | ENDLESS | {"max_tokens": 6000, "seed": 4}
    (free,) = texts(post(server, V2_PATH, body))
    found = re.search(r"\n(\n[^\n:]{1,60}:)", free)
    assert found is not None
    assert texts(post(server, V2_PATH, body | {"stop_tokens": [found[1]]})) == [free[: found.start()]]


@pytest.mark.parametrize("path", ROUTES)
def test_k9_each_step_draws_anew(server: LiveServer, path: str) -> None:
    """The first one too, also of a single row; and whoever comes twice is answered in two ways."""
    body = asked(path) | DRAWN | ENDLESS
    drawn = [texts(post(server, path, body | {"max_tokens": 40}))[0] for _ in range(2)]
    assert drawn[0] != drawn[1]
    assert all(len(set(text)) > 10 for text in drawn)
    firsts = {texts(post(server, path, body | {"max_tokens": 1, "seed": seed}))[0] for seed in range(20)}
    assert len(firsts) > 5


@pytest.mark.parametrize("path", [V1_PATH, V2_PATH, V3_PATH, FIM, STATE, TREE])
def test_k9_penalties_last(server: LiveServer, path: str) -> None:
    """So strong that nothing comes twice, but what is free."""
    body = asked(path) | DRAWN | ENDLESS | {"alpha_presence": 1e6, "temperature": 1, "max_tokens": 100, "seed": 1}
    (text,) = texts(post(server, path, body))
    letters = re.findall("[A-Za-z]", re.sub("the |wing|beat|User", "", text))  # each of them is a token
    assert len(letters) == len(set(letters)) > 10


@pytest.mark.parametrize("path", [V3_PATH, FIM])
def test_k9_a_single_row_ends_before_its_stop(server: LiveServer, path: str) -> None:
    body = asked(path) | DRAWN | ENDLESS | {"max_tokens": 2000, "seed": 5}
    (free,) = texts(post(server, path, body))
    reply = post(server, path, body | {"stop_tokens": [ord("~") + 1]})  # an id of World's first 256 is a byte, and one
    assert texts(reply) == [free[: free.index("~")]]
    assert reply["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("path", [V2_PATH, V3_PATH])
@pytest.mark.parametrize("penalty", ["alpha_presence", "alpha_frequency"])
def test_k10_new_lines_cost_nothing(server: LiveServer, path: str, penalty: str) -> None:
    """Once every other token was used, only those remain that are free of the penalty."""
    body = asked(path) | DRAWN | ENDLESS | {penalty: 1e6, "temperature": 1, "max_tokens": 600, "seed": 1}
    (text,) = texts(post(server, path, body))
    assert set(text[-200:]) == set("\t\n 0123456789")


@pytest.fixture(scope="module")
def locked(model_path: Path) -> Iterator[LiveServer]:
    with live_server(settings_for(model_path, api_keys=["pw"])) as live:
        yield live


@pytest.mark.parametrize("path", [*ROUTES, "/state/status", "/state/delete", "/translate/v1/batch-translate"])
def test_k13_a_password_is_asked_for_before_all_else(locked: LiveServer, path: str) -> None:
    bodies = (b"", b"{}", b"{bad", b"[]", b'{"contents": []}', b'{"contents": ["a", "b"], "max_tokens": "x"}')
    for content in bodies:
        reply = locked.http.post(path, content=content)
        openai = path == V1_PATH and b"contents" not in content
        assert reply.status_code == 401
        assert isinstance(reply.json()["error"], dict if openai else str)
    assert locked.http.post("/state/delete", json={"password": "pw"}).json() == {
        "error": "Missing session_id parameter"
    }


@pytest.mark.parametrize("path", ROUTES[1:])
def test_k13_what_is_missing_is_named(server: LiveServer, path: str) -> None:
    missing = "prefix" if path == FIM else "contents"
    assert refused(server, path, {}) == (400, {"error": f"Missing {missing} parameter"})


def failing(server: LiveServer, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """From now on the first rows of a request fail."""
    client = server.registry.first.client
    feed = client._feed

    def feed_failures(generation: Any, outputs: list[RowOutput], now: float) -> None:
        for output in outputs:
            if output.row < rows and output.finish_reason is not None:
                output.finish_reason, output.error = "error", "the logits are not finite"
        feed(generation, outputs, now)

    monkeypatch.setattr(client, "_feed", feed_failures)


@pytest.mark.parametrize("path", ROUTES)
def test_k13_a_failure_is_told(server: LiveServer, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """By a 500, or by an event at the end of a stream, which is there."""
    failing(server, monkeypatch, 1)
    body = asked(path) | {"max_tokens": 3}
    assert refused(server, path, body) == (500, {"error": "the logits are not finite"})
    said = events(server, path, body)
    assert said[-1] == {"error": "the logits are not finite"}
    assert said[-2]["choices"][0]["finish_reason"] == "error"


@pytest.mark.parametrize("path", ROUTES[:5])
def test_k13_a_row_that_fails_loses_no_other(server: LiveServer, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    body = asked(path, rows=2) | {"max_tokens": 3, "seed": 1}
    want = texts(post(server, path, body))
    failing(server, monkeypatch, 1)
    reply = post(server, path, body)
    assert [choice["finish_reason"] == "error" for choice in reply["choices"]] == [True, False]
    assert reply["choices"][0]["error"] == "the logits are not finite"
    assert texts(reply)[1] == want[1]
    said = events(server, path, body)
    assert joined(said, 2)[1] == want[1]
    ends = [choice for event in said for choice in event["choices"] if "finish_reason" in choice]
    assert {choice["index"]: choice.get("error") for choice in ends} == {0: "the logits are not finite", 1: None}


def test_k13_a_defect_in_a_stream_ends_it(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wingbeat.server.dialects.lightning_answer.BatchStream.step", lambda self, rows: 1 / 0)
    said = events(server, V2_PATH, V2)
    assert [list(event) for event in said] == [["error"]]


def test_k14_nobodys_texts_are_logged(
    model_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path, secret = "/translate/v1/batch-translate", "Zanzibar"
    with live_server(settings_for(model_path, access_log=True)) as live:
        for target, status in (("zh-CN", 200), ("zh\n\n", 400)):
            body = {"source_lang": "en", "target_lang": target, "text_list": [f"To {secret}!"]}
            assert live.http.post(path, json=body).status_code == status
        post(live, V1_PATH, asked(V1_PATH, secret) | {"max_tokens": 2})
    logged = capfd.readouterr()
    assert path in logged.out + caplog.text
    assert secret not in logged.out + logged.err + caplog.text


def test_k21_gaps_end_at_their_stops(server: LiveServer) -> None:
    body = asked(FIM) | DRAWN | ENDLESS | {"max_tokens": 60, "seed": 11}
    (free,) = texts(post(server, FIM, body))
    stop = free[10:13]
    for stops in ([stop], [stop, "✿"]):
        assert texts(post(server, FIM, body | {"stop_tokens": stops})) == [free[: free.index(stop)]]
        assert joined(events(server, FIM, body | {"stop_tokens": stops}), 1) == [free[: free.index(stop)]]


def test_k21_each_gap_needs_two_sides(server: LiveServer) -> None:
    for prefix, suffix in ((["a", "b"], ["c"]), (["a"], ["b", "c"]), ([], ["a"])):
        status, said = refused(server, FIM, {"prefix": prefix, "suffix": suffix})
        assert (status, list(said)) == (400, ["error"])
    assert refused(server, FIM, {"prefix": ["a"]}) == (400, {"error": "Missing suffix parameter"})


def test_big_batch_takes_any_temperature_below_zero_for_none(server: LiveServer) -> None:
    body = asked(BIG, "the wing") | {"max_tokens": 12}
    want = texts(post(server, BIG, body | {"temperature": 0}))
    assert texts(post(server, BIG, body | {"temperature": -1})) == want
    assert refused(server, V1_PATH, asked(V1_PATH) | {"temperature": -1})[0] == 400


def test_where_probes_look(locked: LiveServer) -> None:
    assert locked.http.get("/healthz").json() == locked.health()
    assert json.loads(locked.http.get("/healthz").content)["status"] == "ok"

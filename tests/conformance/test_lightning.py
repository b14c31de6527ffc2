"""rwkv_lightning's batch routes: v1, v2, v3, big_batch and FIM, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.conformance.lightning import PROMPTS, V1, V2, events, joined, post, refused, texts
from tests.live import LiveServer, live_server, settings_for

V1_PATH, V2_PATH, V3_PATH = (f"/v{version}/chat/completions" for version in (1, 2, 3))
BATCHES = [(V1_PATH, V1), (V2_PATH, V2), (V3_PATH, V2)]


@pytest.fixture(scope="module")
def locked(model_path: Path) -> Iterator[LiveServer]:
    with live_server(settings_for(model_path, api_keys=["pw"])) as live:
        yield live


@pytest.mark.parametrize(("path", "body"), BATCHES)
def test_a_whole_reply(server: LiveServer, path: str, body: dict[str, Any]) -> None:
    """E2, E5, E7."""
    reply = post(server, path, body)
    assert reply["id"] == ("rwkv7-batch-v3" if path == V3_PATH else "rwkv7-batch")
    assert (reply["object"], reply["model"]) == ("chat.completion", "rwkv7")
    assert len(texts(reply)) == 2
    assert texts(post(server, path, body)) == texts(reply)
    swapped = texts(post(server, path, body | {"contents": PROMPTS[::-1]}))
    assert swapped == texts(reply)[::-1]
    alone = [texts(post(server, path, body | {"contents": [prompt]}))[0] for prompt in PROMPTS]
    assert alone == texts(reply)


@pytest.mark.parametrize(("path", "body"), BATCHES)
@pytest.mark.parametrize("chunk_size", [-3, 1, 2, 128])
def test_a_stream_says_what_the_whole_reply_says(
    server: LiveServer, path: str, body: dict[str, Any], chunk_size: int
) -> None:
    """E3, E4: the size of pieces changes nothing, nor does an unknown field."""
    want = texts(post(server, path, body))
    said = events(server, path, body | {"chunk_size": chunk_size, "foo": 1})
    assert joined(said, 2) == want
    assert all(event["object"] == "chat.completion.chunk" for event in said)
    assert all("delta" in choice for event in said for choice in event["choices"])
    ends = [choice for event in said for choice in event["choices"] if choice.get("finish_reason")]
    assert sorted(choice["index"] for choice in ends) == [0, 1]


def test_pieces_have_the_size_that_was_asked_for(server: LiveServer) -> None:
    body = V2 | {"contents": PROMPTS[:1], "max_tokens": 12, "stop_tokens": [0], "top_k": 0, "top_p": 1, "seed": 3}
    for chunk_size, most in ((1, 13), (4, 4), (128, 1)):
        said = events(server, V2_PATH, body | {"chunk_size": chunk_size, "ignore_eos": True})
        assert len(said) <= most
    assert len(events(server, V2_PATH, body | {"chunk_size": 1, "ignore_eos": True})) > 4


def test_characters_that_come_in_several_tokens_are_whole(server: LiveServer, client: OpenAI) -> None:
    """K1: random tokens of single bytes, in pieces of one token."""
    body = V2 | {"contents": ["x"] * 6, "top_k": 0, "top_p": 1, "temperature": 1.5, "seed": 5, "stop_tokens": [0]}
    want = texts(post(server, V2_PATH, body))
    assert any(not text.isascii() for text in want)
    assert joined(events(server, V2_PATH, body | {"chunk_size": 1}), 6) == want


def test_greedy_is_the_same_everywhere(server: LiveServer) -> None:
    """E5, E6."""
    plain = {"alpha_presence": 0, "alpha_frequency": 0, "pad_zero": False, "top_k": 1}
    want = texts(post(server, V1_PATH, V1))
    assert texts(post(server, V2_PATH, V2 | plain)) == want
    assert texts(post(server, V2_PATH, V2 | plain | {"temperature": 0, "top_k": 50})) == want
    assert texts(post(server, V1_PATH, V1 | {"temperature": 0, "noise": 1.5})) == want
    big = V1 | {"temperature": 0}
    assert joined(events(server, "/big_batch/completions", big), 2) == want


def test_padding_is_v2_s_and_v3_s(server: LiveServer) -> None:
    greedy = {"alpha_presence": 0, "alpha_frequency": 0}
    padded = [post(server, path, V2 | greedy)["usage"]["prompt_tokens"] for path in (V1_PATH, V2_PATH, V3_PATH)]
    bare = post(server, V2_PATH, V2 | greedy | {"pad_zero": False})["usage"]["prompt_tokens"]
    assert padded == [bare, bare + 2, bare + 2]
    assert texts(post(server, V2_PATH, V2 | {"contents": [""], "pad_zero": False})) == texts(
        post(server, V2_PATH, V2 | {"contents": [""]})
    )


def test_an_empty_prompt_among_others(server: LiveServer) -> None:
    """K11."""
    mixed = texts(post(server, V1_PATH, V1 | {"contents": [PROMPTS[0], "", PROMPTS[1]]}))
    assert [mixed[0], mixed[2]] == texts(post(server, V1_PATH, V1))
    assert mixed[1] == texts(post(server, V1_PATH, V1 | {"contents": [""]}))[0]


def test_stops_are_ids_and_texts_mixed(server: LiveServer) -> None:
    body = V2 | {"contents": ["x"], "top_k": 0, "top_p": 1, "seed": 11, "max_tokens": 60, "pad_zero": False}
    (free,) = texts(post(server, V2_PATH, body | {"stop_tokens": []}))
    stop = free[20:23]
    for stops in ([stop], [0, stop, 299, 70000, -1], stop):
        reply = post(server, V2_PATH, body | {"stop_tokens": stops})
        assert texts(reply) == [free[: free.index(stop)]]
        assert reply["choices"][0]["finish_reason"] == "stop"
        assert joined(events(server, V2_PATH, body | {"stop_tokens": stops, "chunk_size": 1}), 1) == texts(reply)


def test_stops_of_many_tokens(server: LiveServer) -> None:
    """K5: no limit of seven, nothing held back for longer than it could become a stop."""
    body = V2 | {"contents": ["x"], "top_k": 0, "top_p": 1, "seed": 11, "max_tokens": 60, "pad_zero": False}
    (free,) = texts(post(server, V2_PATH, body | {"stop_tokens": []}))
    stop = free[12:40]
    assert texts(post(server, V2_PATH, body | {"stop_tokens": [stop]})) == [free[:12]]
    assert texts(post(server, V2_PATH, body | {"stop_tokens": [stop + "?"]})) == [free]


def test_the_end_of_text_is_no_text(server: LiveServer) -> None:
    """K3: draws among all tokens come to it, whether it is listed or not."""
    body = {"contents": ["x"] * 4, "noise": 1000, "max_tokens": 1500, "stop_tokens": [], "seed": 1}
    reply = post(server, V1_PATH, body)
    assert {choice["finish_reason"] for choice in reply["choices"]} == {"stop"}
    for found in (*texts(reply), *texts(post(server, V1_PATH, body | {"ignore_eos": True}))):
        assert "endoftext" not in found


def test_why_a_row_ended_and_what_it_cost(server: LiveServer) -> None:
    """K12."""
    reply = post(server, V1_PATH, V1 | {"max_tokens": 3, "stop_tokens": [], "ignore_eos": True})
    assert [choice["finish_reason"] for choice in reply["choices"]] == ["length", "length"]
    assert reply["usage"]["completion_tokens"] == 6
    said = events(server, V1_PATH, V1 | {"max_tokens": 3, "include_usage": True})
    assert said[-1]["choices"] == []
    assert said[-1]["usage"] == post(server, V1_PATH, V1 | {"max_tokens": 3})["usage"]
    assert texts(post(server, V1_PATH, V1 | {"max_tokens": 0})) == ["", ""]


def test_noise_draws_and_a_seed_repeats(server: LiveServer) -> None:
    noisy = V1 | {"noise": 30, "seed": 7}
    assert texts(post(server, V1_PATH, noisy)) == texts(post(server, V1_PATH, noisy))
    drawn = {tuple(texts(post(server, V1_PATH, V1 | {"noise": 30, "contents": ["x"]}))) for _ in range(4)}
    assert len(drawn) > 1
    same = texts(post(server, V1_PATH, {k: v for k, v in V1.items() if k != "noise"} | {"contents": ["x"] * 6}))
    assert len(set(same)) > 1, "without noise and filters the default noise holds, and rows differ"


@pytest.mark.parametrize("path", ["/v1/chat/completions", V2_PATH, "/big_batch/completions"])
def test_a_seed_draws_each_of_equal_prompts_anew(server: LiveServer, path: str) -> None:
    body = {"contents": ["x", "y", "x", "x"], "noise": 30, "top_k": 0, "top_p": 1, "seed": 7, "max_tokens": 8}
    body |= {"stop_tokens": [], "ignore_eos": True, "stream": False}
    found = texts(post(server, path, body))
    assert texts(post(server, path, body)) == found
    assert len(set(found)) == 4
    assert [texts(post(server, path, body | {"contents": [text]}))[0] for text in "xy"] == found[:2]


def test_v1_follows_the_newer_rules_for_requests_that_mean_them(server: LiveServer) -> None:
    newer = {k: v for k, v in V2.items() if k not in ("pad_zero", "chunk_size")} | {"alpha_presence": 0}
    strong = texts(post(server, V1_PATH, newer | {"alpha_frequency": 1000}))
    weak = texts(post(server, V1_PATH, newer | {"alpha_frequency": 0}))
    assert strong != weak, "K4: presence 0 leaves frequency its effect"


@pytest.mark.parametrize(("path", "body"), BATCHES)
def test_types_are_coerced_as_its_clients_expect(server: LiveServer, path: str, body: dict[str, Any]) -> None:
    loose = body | {"max_tokens": "40", "temperature": "1", "stream": "false", "model": None, "contents": PROMPTS[0]}
    assert texts(post(server, path, loose)) == texts(post(server, path, body))[:1]
    assert post(server, path, body | {"model": "mine"})["model"] == "mine"


@pytest.mark.parametrize("path", [V1_PATH, V2_PATH, V3_PATH, "/big_batch/completions"])
def test_what_is_wrong_is_said_in_one_text(server: LiveServer, path: str) -> None:
    """K13: never a 500, always JSON."""
    assert refused(server, path, {"contents": []}) == (400, {"error": "Empty prompts list"})
    for wrong, word in {
        "contents": ["x", 5],
        "max_tokens": 10**9,
        "temperature": "hot",
        "top_p": "wide",
        "alpha_decay": 0,
        "stop_tokens": [True],
        "chunk_size": "many",
    }.items():
        status, said = refused(server, path, {"contents": ["x"], wrong: word})
        assert (status, list(said)) == (400, ["error"])
        assert wrong in said["error"]
    assert refused(server, path, {"contents": ["x"], "stop_tokens": ["x" * 2000]})[0] == 400
    assert texts_work(server)


def test_filters_out_of_their_range_keep_all(server: LiveServer) -> None:
    body = {"contents": PROMPTS, "max_tokens": 8, "seed": 1, "temperature": 2}
    want = texts(post(server, V2_PATH, body | {"top_k": 0, "top_p": 1}))
    assert texts(post(server, V2_PATH, body | {"top_k": -5, "top_p": 1.5})) == want
    assert texts(post(server, V2_PATH, body | {"top_k": 10**12, "top_p": -1})) == want
    assert texts(post(server, V2_PATH, body)) != want


def texts_work(server: LiveServer) -> bool:
    return len(texts(post(server, V2_PATH, V2))) == 2


def test_json_that_is_none(server: LiveServer) -> None:
    for path in (V2_PATH, V3_PATH, "/big_batch/completions", "/state/status"):
        status, said = refused(server, path, b"{bad")
        assert status == 400
        assert said["error"].startswith("Invalid JSON")
        for other in (b"[1]", b"null", b'"x"'):
            assert refused(server, path, other) == (400, {"error": "The body must be a JSON object."})
        status, said = refused(server, path, b"[" * 5000)
        assert (status, said["error"]) == (400, "Invalid JSON: more than 64 levels of arrays and objects.")
    status, said = refused(server, "/v1/chat/completions", b'{"contents": ["a"')
    assert (status, type(said["error"])) == (400, str), "a batch, as far as it can be read"
    assert refused(server, V2_PATH, {})[0] == 400
    assert server.http.get("/v2/translate/nothing").status_code == 404
    assert list(server.http.get("/state/status").json()) == ["error"]


def test_messages_on_the_same_paths_are_openai_s(server: LiveServer) -> None:
    """E7, E10: only `contents` and `messages` decide."""
    body = {"messages": [{"role": "user", "content": "What is it?"}], "max_tokens": 6, "top_k": 1}
    shown = {path: post(server, path, body) for path in (V1_PATH, V2_PATH, V3_PATH, "/openai/v1/chat/completions")}
    assert len({reply["choices"][0]["message"]["content"] for reply in shown.values()}) == 1
    assert all(reply["id"].startswith("chatcmpl-") for reply in shown.values())
    status, said = refused(server, V2_PATH, {"messages": []})
    assert status == 400
    both = V1 | {"messages": [{"role": "user", "content": "x"}]}
    assert texts(post(server, V1_PATH, both)) == texts(post(server, V1_PATH, V1))
    with_null = body | {"contents": None}
    assert post(server, V3_PATH, with_null)["id"].startswith("chatcmpl-")
    status, said = refused(server, "/openai/v1/chat/completions", V1)
    assert status == 400
    assert said["error"]["param"] == "contents"


def test_more_rows_than_can_run_at_once(server: LiveServer) -> None:
    """Eight run together; each has its own text, in its own place."""
    prompts = [f"{number}: the wing" for number in range(100)]
    want = [texts(post(server, V1_PATH, V1 | {"contents": [prompt], "max_tokens": 8}))[0] for prompt in prompts[::9]]
    said = events(server, V1_PATH, V1 | {"contents": prompts, "max_tokens": 8, "chunk_size": 3})
    assert joined(said, 100)[::9] == want
    assert max(len(json.dumps(event)) for event in said) < 64_000


def test_too_many_rows(server: LiveServer) -> None:
    """E12."""
    most = server.registry.first.config.max_queue + 8
    status, said = refused(server, V2_PATH, V2 | {"contents": ["x"] * (most + 1), "max_tokens": 1})
    assert (status, said["request_bsz"], said["max_bsz"]) == (400, most + 1, most)
    assert "bsz overflow" in said["error"]
    rows = ["x"] * (most + 1)
    many = {"contents": rows, "prefix": rows, "suffix": rows, "max_tokens": 1, "stream": True}
    for path in (V1_PATH, V2_PATH, V3_PATH, "/big_batch/completions", "/FIM/v1/batch-FIM"):
        reply = server.http.post(path, json=many)
        assert reply.status_code == 400
        assert reply.headers["content-type"].startswith("text/event-stream")
        told, last, rest = reply.text.split("\n\n")
        assert (json.loads(told.removeprefix("data: ")), last, rest) == (said, "data: [DONE]", "")


def test_who_leaves_frees_all_rows(server: LiveServer) -> None:
    """Of so many that nobody is taken for too slow a reader meanwhile."""
    body = V1 | {"contents": ["x"] * 250, "max_tokens": 100_000, "stop_tokens": [], "stream": True, "ignore_eos": True}
    with server.http.stream("POST", V1_PATH, json=body | {"chunk_size": 1}) as reply:
        next(reply.iter_lines())
        assert server.health()["running"] == 8
    health = server.wait_idle()
    assert (health["running"], health["waiting"]) == (0, 0)
    assert texts_work(server)


def test_gaps_are_filled(server: LiveServer) -> None:
    """E11, K21."""
    body = {
        "prefix": ["A cat darted"],
        "suffix": ["a lamp came on."],
        "max_tokens": 16,
        "top_p": 0,
        "stop_tokens": ["✿"],
    }
    reply = post(server, "/FIM/v1/batch-FIM", body)
    assert (reply["object"], len(reply["choices"])) == ("FIM.completion", 1)
    prompt = "✿prefix✿✿suffix✿a lamp came on.✿middle✿A cat darted"
    greedy = {"contents": [prompt], "max_tokens": 16, "noise": 0, "stop_tokens": ["✿"]}
    assert texts(reply) == texts(post(server, V1_PATH, greedy))
    assert joined(events(server, "/FIM/v1/batch-FIM", body), 1) == texts(reply)
    status, said = refused(server, "/FIM/v1/batch-FIM", body | {"suffix": []})
    assert status == 400
    assert "suffix" in said["error"]


def test_big_batch_is_a_stream_if_nothing_else_is_asked_for(server: LiveServer) -> None:
    """K21."""
    body = {"contents": PROMPTS, "max_tokens": 6, "temperature": 0}
    reply = server.http.post("/big_batch/completions", json=body)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.text.endswith("data: [DONE]\n\n")
    whole = post(server, "/big_batch/completions", body | {"stream": False})
    assert texts(whole) == joined(events(server, "/big_batch/completions", body), 2)


UNAUTHORIZED = {"error": "Unauthorized: invalid or missing password"}


@pytest.mark.parametrize(
    "path",
    [
        *(V1_PATH, V2_PATH, V3_PATH, "/big_batch/completions", "/FIM/v1/batch-FIM", "/state/chat/completions"),
        *("/multi_state/chat/completions", "/state/status", "/state/delete", "/translate/v1/batch-translate"),
    ],
)
def test_the_password_comes_as_a_field_or_a_header(locked: LiveServer, path: str) -> None:
    """E8."""
    body: dict[str, Any] = {"contents": ["x"], "max_tokens": 2, "prefix": ["a"], "suffix": ["b"], "session_id": "s"}
    body |= {"dialogue_idx": 0, "target_lang": "en", "text_list": [], "delete_prefix": True}
    assert refused(locked, path, body) == (401, UNAUTHORIZED)
    assert refused(locked, path, body | {"password": "other"}) == (401, UNAUTHORIZED)
    for more, headers in (({"password": "pw"}, {}), ({}, {"Authorization": "Bearer pw"})):
        reply = locked.http.post(path, json=body | more, headers=headers)
        assert reply.status_code == 200, reply.text
    wrong = {"Authorization": "Bearer other"}
    assert locked.http.post(path, json=body | {"password": "pw"}, headers=wrong).status_code == 200


def test_a_password_is_for_openai_s_form_too(locked: LiveServer) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    for path in (V1_PATH, "/openai/v1/chat/completions"):
        status, said = refused(locked, path, body)
        assert status == 401
        assert said["error"]["code"] == "invalid_api_key"
        assert post(locked, path, body | {"password": "pw"})["object"] == "chat.completion"
    assert locked.http.get("/openai/v1/models").status_code == 401
    assert locked.http.get("/openai/v1/models", headers={"Authorization": "Bearer pw"}).status_code == 200
    assert refused(locked, "/v1/completions", {"prompt": "x", "password": "pw"})[0] == 401


def test_a_password_is_looked_for_in_any_body(locked: LiveServer) -> None:
    """Of whatever shape, in however many parts it comes."""
    for content in (b"", b"[" * 5000, b"null", b'{"password": 5}', b"\xff", b'{"contents": ["x"], "password": "pw"'):
        assert locked.http.post(V2_PATH, content=content).status_code == 401
    assert refused(locked, V1_PATH, V1 | {"password": 5}) == (401, UNAUTHORIZED)

    def parts() -> Iterator[bytes]:
        whole = json.dumps(V2 | {"password": "pw"}).encode()
        yield from (whole[i : i + 7] for i in range(0, len(whole), 7))

    assert locked.http.post(V2_PATH, content=parts()).status_code == 200


def test_routes_that_want_no_key(model_path: Path) -> None:
    """Who sends one is known by it all the same."""
    settings = settings_for(model_path, api_keys=["pw"], open_paths=["/v1/models", "/translate/v1/batch-translate"])
    with live_server(settings) as live:
        body = {"target_lang": "en", "text_list": ["", "1"]}
        for headers in ({}, {"Authorization": "Bearer pw"}):
            reply = live.http.post("/translate/v1/batch-translate", json=body, headers=headers)
            assert [entry["text"] for entry in reply.json()["translations"]] == ["", "1"]
            assert live.http.get("/v1/models", headers=headers).status_code == 200
        assert live.http.get("/openai/v1/models").status_code == 401
        assert live.http.post(V2_PATH, json=V2).status_code == 401
        paths = live.http.get("/openapi.json", headers={"Authorization": "Bearer pw"}).json()["paths"]
        assert paths["/v1/models"]["get"]["security"] == []
        assert "security" not in paths[V2_PATH]["post"]

"""`prediction`: the same answer, in fewer steps."""

from __future__ import annotations

from typing import Any

from openai import OpenAI

from tests.live import LiveServer

MESSAGES: Any = [{"role": "user", "content": "hello"}]


def drafted(server: LiveServer) -> tuple[int, int]:
    (model,) = server.http.get("/stats").json()["models"]
    return model["drafted_tokens"], model["accepted_tokens"]


def ask(client: OpenAI, seed: int, prediction: Any = None, *, stream: bool = False) -> str:
    """A seeded answer of a random model, which repeats nothing by itself."""
    more = {} if prediction is None else {"prediction": {"type": "content", "content": prediction}}
    reply: Any = client.chat.completions.create(
        model="tiny",
        messages=MESSAGES,
        seed=seed,
        max_tokens=60,
        stream=stream,
        extra_body={"ignore_eos": True},
        **more,
    )
    if stream:
        return "".join(part.choices[0].delta.content or "" for part in reply)
    return reply.choices[0].message.content


def test_a_predicted_answer_is_the_same_and_was_guessed(client: OpenAI, server: LiveServer) -> None:
    answer = ask(client, 1)
    before = drafted(server)
    assert ask(client, 1, answer) == answer
    after = drafted(server)
    assert 0 < after[1] - before[1] <= after[0] - before[0]
    assert f'wingbeat_accepted_tokens_total{{model="tiny"}} {after[1]}' in server.http.get("/metrics").text


def test_a_wrong_prediction_changes_nothing(client: OpenAI) -> None:
    answer = ask(client, 2)
    for wrong in ("something else " * 20, [{"type": "text", "text": answer[10:30]}], "", answer[:9] + "x" + answer[9:]):
        assert ask(client, 2, wrong) == ask(client, 2, wrong, stream=True) == answer


def test_a_prediction_has_a_limit_like_a_prompt(server: LiveServer) -> None:
    limit = server.registry.models[0].max_prompt_tokens
    body = {"messages": MESSAGES, "prediction": {"type": "content", "content": "x " * limit}}
    reply = server.http.post("/v1/chat/completions", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "prediction")
